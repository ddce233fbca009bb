// Draws the charts, and starts the page.

const views = new Map();

// Shows in a chart what is chosen.
function mark(id, key) {
  views.get(id)?.signal("chosen", key).runAsync();
}

function theme() {
  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(`--${name}`).trim();
  const [ink, muted, line] = ["ink", "muted", "line"].map(color);
  return {
    background: "transparent",
    font: "system-ui, sans-serif",
    view: { stroke: null },
    axis: {
      domainColor: line,
      gridColor: line,
      labelColor: muted,
      tickColor: line,
      titleColor: muted,
      titleFontWeight: "normal",
      labelFontSize: 11,
    },
    legend: { labelColor: ink, titleColor: muted },
    text: { color: muted, fontSize: 11 },
    rule: { color: muted },
    range: {
      heatmap: [color("low"), color("high")],
      ramp: [color("low"), color("high")],
      category: ["#2a9487", "#e08214", "#7570b3", "#d6538f", "#80a13c"],
    },
  };
}

async function draw(explorers) {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  for (const [id, spec] of Object.entries(page.charts)) {
    // The interpreter: without it Vega would make functions out of strings.
    const { view } = await vegaEmbed(document.getElementById(id), spec, {
      actions: false,
      ast: true,
      config: theme(),
      renderer: "svg",
      tooltip: { theme: dark ? "dark" : "light" },
    });
    views.set(id, view);
    const [, n, m] = /^t(\d+)-use(\d+)$/.exec(id) ?? [];
    if (n === undefined) continue;
    view.addEventListener("click", (_, item) => {
      const key = item?.datum?.key;
      if (key !== undefined) explorers[n].choose(Number(m), key);
    });
    mark(id, explorers[n].chosen[id]);
  }
  document.documentElement.dataset.ready = "yes";
}

const roots = [...document.querySelectorAll(".explorer")];
const explorers = roots.map((root) => new Explorer(root));
draw(explorers);
matchMedia("(prefers-color-scheme: dark)").onchange = () => draw(explorers);
