// One page for two addresses: / lists searches, /searches/{id} shows one.

import { h } from "./dom.js";
import { askForKey } from "./key.js";
import { showList } from "./list.js";
import { showSearch } from "./search.js";

const main = document.getElementById("main");
const id = /^\/searches\/([A-Za-z0-9_-]+)$/.exec(location.pathname)?.[1];

try {
  await (id ? showSearch(main, id) : showList(main));
} catch (error) {
  if (error.status === 401) askForKey(main, error.message);
  else main.replaceChildren(
    h("section", { class: "card note" },
      h("h1", null, error.status === 404 ? "There is nothing here" : "This cannot be shown"),
      h("p", null, error.message),
      h("p", null, h("a", { href: "/" }, "All searches"))),
  );
}
