// The API, read from its own description.

import { call } from "./api.js";
import { h } from "./dom.js";
import { askForKey } from "./key.js";

const main = document.getElementById("main");
const description = await call("/openapi.json").catch((error) => {
  if (error.status === 401) askForKey(main, error.message);
  else main.append(error.message);
  return new Promise(() => {});  // nothing more to show
});
const operations = Object.entries(description.paths).flatMap(([path, verbs]) =>
  Object.entries(verbs).map(([verb, operation]) => ({ path, verb, ...operation })));
const tags = [...new Set(operations.map((operation) => operation.tags[0]))];

main.replaceChildren(
  h("div", { class: "heading" }, h("h1", null, `${description.info.title} API`), h("span", { class: "muted" }, `version ${description.info.version}`)),
  h("p", null, "Every error is an ", h("code", null, "application/problem+json"), " with ", h("code", null, "code"), ", ", h("code", null, "request_id"),
    " and ", h("code", null, "errors"), ". The whole description is ", h("a", { href: "/openapi.json" }, "/openapi.json"), "."),
  ...tags.map((tag) => h("section", { class: "card" }, h("h2", null, tag), operations.filter((operation) => operation.tags[0] === tag).map(show))),
  h("section", { class: "card" }, h("h2", null, "Schemas"), Object.entries(description.components.schemas).map(([name, schema]) =>
    h("details", { class: "operation", id: `schema-${name}` }, h("summary", null, h("code", null, name)), json(schema)))));

function show({ verb, path, description: text, parameters = [], requestBody, responses }) {
  const body = requestBody?.content["application/json"];
  return h("details", { class: "operation" },
    h("summary", null, h("span", { class: `verb ${verb}` }, verb.toUpperCase()), h("code", null, path), h("span", { class: "muted" }, text)),
    parameters.length ? parameterTable(parameters) : null,
    body ? [h("p", null, "Body: ", reference(body.schema), ", for example"), json(body.example)] : null,
    h("p", { class: "muted small" }, `Answers ${Object.keys(responses).filter((code) => code !== "default").join(", ")}, or a problem.`));
}

function parameterTable(parameters) {
  return h("div", { class: "scroll" }, h("table", null,
    h("thead", null, h("tr", null, ["Parameter", "In", "Type", ""].map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", null, parameters.map(({ name, in: place, schema, description: text }) =>
      h("tr", null, h("th", { scope: "row" }, h("code", null, name)), h("td", null, place), h("td", null, kind(schema)), h("td", null, text ?? schema.description ?? ""))))));
}

function kind(schema) {
  const one = schema.anyOf?.find((option) => option.type !== "null") ?? schema;
  if (one.type === "array") return `list of ${kind(one.items)}`;
  if (one.$ref) return reference(one).textContent;
  return one.enum?.join(" | ") ?? one.type ?? "any";
}

function reference({ $ref }) {
  const name = $ref.split("/").at(-1);
  return h("a", { href: `#schema-${name}` }, name);
}

function json(value) {
  return h("pre", { tabindex: "0" }, JSON.stringify(value, null, 2));
}
