// Making elements. Text always becomes a text node, so nothing that a user typed can become markup.

const SVG = "http://www.w3.org/2000/svg";

export const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
export const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const shown = new WeakMap();

// Rebuilds an element's content only when what it shows has changed, so that focus, selection and scroll stay.
export function update(element, data, build) {
  const key = JSON.stringify(data);
  if (shown.get(element) === key) return;
  shown.set(element, key);
  element.replaceChildren(...[build(data)].flat(Infinity).filter(Boolean));
}

// Only these may be followed; anything else that a link field might hold is shown as nothing.
export const safeLink = (href) => (/^(https?:\/\/|\/(?!\/))/.test(href ?? "") ? href : null);
