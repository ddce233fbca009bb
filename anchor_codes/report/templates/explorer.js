// Finds symbols, and shows what belongs to them.

const SUGGESTIONS = 12;
const ENTRIES = 200;
const page = JSON.parse(document.getElementById("data").textContent);

class Explorer {
  constructor(root) {
    this.n = Number(root.dataset.table);
    this.chosen = {};
    const data = page.tables[this.n];
    this.words = data.words;
    this.others = data.others;
    this.folded = this.words.map((word) => word.toLowerCase());
    this.after = this.neighbors(data.after);
    this.before = data.before && this.neighbors(data.before);
    this.input = root.querySelector("input[type=search]");
    this.status = root.querySelector(".status");
    this.suggestions = root.querySelector(".suggestions");
    this.symbol = root.querySelector(".symbol");
    const kinds = { anchors: Anchors, codes: Codes };
    this.components = data.components.map((found) => new kinds[found.kind](found));
    this.cards = [...root.querySelectorAll(".component")];
    this.components.forEach((_, m) => this.start(m));
    this.input.oninput = () => this.suggest();
    // What is typed replaces the symbol that is shown.
    this.input.onfocus = () => this.input.select();
    this.input.form.onsubmit = (event) => {
      event.preventDefault();
      const [first] = this.find(this.input.value);
      if (first === undefined) this.suggest();
      else this.show(first);
    };
    this.show(0);
  }

  neighbors({ ids, scores }) {
    return { ids: unpack(ids), scores: unpack(scores) };
  }

  word(id) {
    return id < this.words.length ? this.words[id] : this.others[id];
  }

  // The symbols that a text may mean: itself, those that begin with it, and
  // those that have it inside.
  find(text) {
    const folded = text.toLowerCase();
    const found = [[], [], [], []];
    this.folded.forEach((word, id) => {
      const at = word.indexOf(folded);
      if (this.words[id] === text) found[0].push(id);
      else if (word === folded) found[1].push(id);
      else if (at === 0) found[2].push(id);
      else if (at > 0) found[3].push(id);
    });
    return found.flat();
  }

  suggest() {
    const text = this.input.value;
    const found = text ? this.find(text) : [];
    const some = found.slice(0, SUGGESTIONS);
    this.suggestions.replaceChildren(
      ...some.map((id) => element("li", {}, this.wordButton(id))),
    );
    const more = found.length > some.length ? `, ${some.length} shown` : "";
    const answer = found.length
      ? `${number(found.length)} found${more}.`
      : "No symbol here contains this text.";
    this.status.textContent = text && answer;
  }

  // Symbols that are not shown are named, and no more.
  wordButton(id) {
    return id < this.words.length
      ? button(() => this.show(id), wordNode(this.word(id)))
      : element("bdi", { title: "not shown here" }, this.word(id));
  }

  line(id, value, largest, text) {
    return barLine(this.wordButton(id), value, largest, text);
  }

  show(id) {
    this.suggestions.replaceChildren();
    this.status.textContent = "";
    this.input.value = this.words[id];
    const described = this.components.flatMap((component, m) =>
      component.describe(
        id,
        (key) => this.choose(m, key),
        (...line) => this.line(...line),
      ),
    );
    const row = element("small", {}, ` row ${number(id)}`);
    this.symbol.replaceChildren(
      element("p", { className: "word" }, wordNode(this.words[id]), row),
      ...described,
      ...this.besides(id),
    );
  }

  // The neighbours of a symbol, before and after side by side.
  besides(id) {
    const sides = { "in this table": this.after, "in the original": this.before };
    const known = Object.entries(sides).filter(([, side]) => side);
    const shared = (other) => known.every(([, side]) => side.ids.row(id).includes(other));
    const columns = known.map(([title, side]) => {
      const scores = side.scores.row(id);
      const lines = [...side.ids.row(id)].map((other, i) => {
        const score = (scores[i] / 1000).toFixed(2);
        const shownScore = element("span", {}, score);
        const both = known.length > 1 && shared(other);
        const className = both ? "shared" : "";
        return element("li", { className }, this.wordButton(other), shownScore);
      });
      const heading = `Neighbours ${known.length > 1 ? title : ""}`;
      return element("div", {}, element("h4", {}, heading), list("neighbors", lines));
    });
    const both = [...this.after.ids.row(id)].filter(shared).length;
    const count = this.after.ids.row(id).length;
    const note = `${both} of ${count} neighbours are the same (●).`;
    const notes = this.before ? [element("p", { className: "note" }, note)] : [];
    return [element("div", { className: "sides" }, ...columns), ...notes];
  }

  start(m) {
    const [card, component] = [this.cards[m], this.components[m]];
    const keys = component.keys();
    const some = keys.slice(0, ENTRIES);
    const title = some.length < keys.length ? "The most used" : "All, the most used first";
    card.querySelector(".list-title").textContent = title;
    card.querySelector(".entries").append(
      ...some.map((key) => element("li", {}, this.entry(m, key))),
    );
    card.querySelector(".choose").onchange = (event) => this.read(m, event);
    card.querySelector(".choose").onsubmit = (event) => this.read(m, event);
    this.choose(m, keys[0]);
  }

  entry(m, key) {
    const component = this.components[m];
    const first = component.membersOf(key).slice(0, 5);
    const words = first.flatMap(({ id }, i) =>
      i ? [", ", wordNode(this.word(id))] : [wordNode(this.word(id))],
    );
    const count = symbols(component.count(key));
    const press = button(
      () => this.choose(m, key),
      element("b", {}, component.label(key)),
      element("span", { className: "note" }, count),
      ...words,
    );
    press.dataset.key = key;
    return press;
  }

  read(m, event) {
    event.preventDefault();
    const form = this.cards[m].querySelector(".choose");
    const inputs = [...form.querySelectorAll("input")];
    if (inputs.every((input) => input.value !== "" && input.validity.valid)) {
      this.choose(m, inputs.map((input) => Number(input.value)).join(":"));
    }
  }

  choose(m, key) {
    const [card, component] = [this.cards[m], this.components[m]];
    const members = component.membersOf(key);
    const largest = Math.max(...members.map(({ value }) => Math.abs(value ?? 0)));
    const lines = members.map(({ id, value }) =>
      this.line(id, value ?? 0, largest, value === null ? "" : weight(value)),
    );
    const count = component.count(key);
    const of = count === undefined ? "" : `, ${symbols(count)}`;
    const label = component.label(key);
    card.querySelector(".members").replaceChildren(
      element("h4", {}, label[0].toUpperCase() + label.slice(1) + of),
      lines.length ? list("bars", lines) : "No symbol here uses it.",
    );
    const inputs = card.querySelectorAll(".choose input");
    key.split(":").forEach((part, i) => (inputs[i].value = part));
    for (const press of card.querySelectorAll(".entries button")) {
      press.ariaPressed = String(press.dataset.key === key);
    }
    this.chosen[`t${this.n}-use${m}`] = key;
    mark(`t${this.n}-use${m}`, key);
  }
}
