// What the page knows of anchors and of codes. Symbols are data: they come into
// the page as text nodes only.

const MEMBERS = 30;

function unpack({ type, columns, data }) {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  const values = new globalThis[type](bytes.buffer);
  return {
    length: columns ? values.length / columns : 0,
    values,
    row: (i) => values.subarray(i * columns, (i + 1) * columns),
  };
}

function element(tag, options = {}, ...children) {
  const node = document.createElement(tag);
  const { data, ...properties } = options;
  Object.assign(node, properties);
  Object.assign(node.dataset, data);
  node.append(...children);
  return node;
}

// An empty symbol would be a button that nobody sees.
function wordNode(word) {
  return word.trim() === ""
    ? element("bdi", { className: "empty" }, word || "(empty)")
    : element("bdi", {}, word);
}

function button(onclick, ...children) {
  return element("button", { type: "button", onclick }, ...children);
}

function number(value) {
  return value.toLocaleString("en");
}

function symbols(count) {
  return `${number(count)} symbol${count === 1 ? "" : "s"}`;
}

function weight(value) {
  return value.toLocaleString("en", { maximumSignificantDigits: 3 });
}

function list(className, items) {
  return element("ul", { className }, ...items);
}

// A line with a bar behind it, as long as its part of the largest value.
function barLine(content, value, largest, text) {
  const line = element("li", {}, content, element("span", {}, text));
  const part = largest ? Math.abs(value) / largest : 0;
  line.style.setProperty("--part", `${(100 * part).toFixed(1)}%`);
  line.classList.toggle("minus", value < 0);
  return line;
}

class Anchors {
  constructor(data) {
    for (const name of ["symbols", "uses", "indices", "weights", "members"]) {
      this[name] = unpack(data[name]);
    }
    this.memberWeights = unpack(data.member_weights);
    this.name = data.name;
    this.places = new Map([...this.symbols.values].map((id, i) => [id, i]));
  }

  keys() {
    const uses = this.uses.values;
    const order = [...uses.keys()].sort((a, b) => uses[b] - uses[a] || a - b);
    return order.map(String);
  }

  label(key) {
    return `anchor ${key}`;
  }

  count(key) {
    return this.uses.values[Number(key)];
  }

  membersOf(key) {
    const weights = this.memberWeights.row(Number(key));
    const ids = [...this.members.row(Number(key))];
    const members = ids.map((id, i) => ({ id, value: weights[i] }));
    return members.filter(({ value }) => value !== 0);
  }

  describe(id, choose) {
    const place = this.places.get(id);
    if (place === undefined) return [];
    const weights = this.weights.row(place);
    const anchors = this.indices.row(place);
    const largest = Math.abs(weights[0]);
    const lines = [...anchors.keys()]
      .filter((i) => weights[i] !== 0)
      .map((i) => {
        const key = String(anchors[i]);
        const content = button(() => choose(key), this.label(key));
        return barLine(content, weights[i], largest, weight(weights[i]));
      });
    return [
      element("h4", {}, `Anchors${this.name && ` of ${this.name}`}`),
      lines.length ? list("bars anchors", lines) : "No weight is left.",
    ];
  }
}

class Codes {
  constructor(data) {
    for (const name of ["symbols", "codes", "values", "uses"]) {
      this[name] = unpack(data[name]);
    }
    this.name = data.name;
    this.size = data.codebookSize;
    this.codeLength = data.codeLength;
    this.ids = [...this.symbols.values];
    this.places = new Map(this.ids.map((id, i) => [id, i]));
    this.counts = new Map();
    for (let digit = 0; digit < this.values.length; digit++) {
      const uses = this.uses.row(digit);
      this.values.row(digit).forEach((value, i) => {
        this.counts.set(`${digit}:${value}`, uses[i]);
      });
    }
  }

  keys() {
    const counted = [...this.counts].sort((a, b) => b[1] - a[1]);
    return counted.map(([key]) => key);
  }

  label(key) {
    const [digit, value] = key.split(":");
    return `digit ${digit} = ${value}`;
  }

  count(key) {
    return this.counts.get(key);
  }

  membersOf(key) {
    const [digit, value] = key.split(":").map(Number);
    const members = this.ids.filter(
      (_, i) => this.codes.row(i)[digit] === value,
    );
    return members.slice(0, MEMBERS).map((id) => ({ id, value: null }));
  }

  // The other symbols that share most digits with that of a place.
  alike(place) {
    const code = this.codes.row(place);
    const scored = this.ids.map((id, i) => {
      const other = this.codes.row(i);
      return { id, value: code.reduce((n, c, j) => n + (c === other[j]), 0) };
    });
    scored.splice(place, 1);
    scored.sort((a, b) => b.value - a.value || a.id - b.id);
    return scored.slice(0, 10).filter(({ value }) => value > 0);
  }

  describe(id, choose, line) {
    const place = this.places.get(id);
    if (place === undefined) return [];
    const where = this.name && ` of ${this.name}`;
    const digits = [...this.codes.row(place)].map((value, digit) => {
      const press = button(
        () => choose(`${digit}:${value}`),
        String(value),
        element("sub", {}, ` ${digit}`),
      );
      press.ariaLabel = `digit ${digit} has the value ${value}`;
      return element("li", {}, press);
    });
    const length = this.codeLength;
    const cut = length > digits.length ? `, the first ${digits.length}` : "";
    const others = this.alike(place).map(({ id, value }) =>
      line(id, value, digits.length, `${value} of ${digits.length}`),
    );
    return [
      element("h4", {}, `Code${where}${cut}`),
      list("digits", digits),
      element("h4", {}, `Share most digits${where}`),
      others.length ? list("bars alike", others) : "No symbol shares a digit.",
    ];
  }
}
