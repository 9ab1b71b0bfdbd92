import { element } from "./dom.js";

/**
 * Fills a tablist by the pattern of the WAI-ARIA Authoring Practices: one tab is in the tab order, the arrows, Home and
 * End move to the others, and a tab is chosen when it gets the focus. `choose` gets the name of the tab.
 */
export function showTabs(list, panel, tabs, selected, choose) {
  const select = (name, focus) => {
    for (const tab of list.children) {
      const chosen = tab.dataset.name === name;
      tab.setAttribute("aria-selected", String(chosen));
      tab.tabIndex = chosen ? 0 : -1;
      if (chosen && focus) tab.focus();
      if (chosen) panel.setAttribute("aria-labelledby", tab.id);
    }
    choose(name);
  };
  list.replaceChildren(...tabs.map(({ name, label }) => {
    const tab = element("button", { type: "button", id: `tab-${name}`, onclick: () => select(name, true) }, label);
    tab.dataset.name = name;
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", panel.id);
    return tab;
  }));
  list.onkeydown = (event) => {
    const names = tabs.map(({ name }) => name);
    const at = names.indexOf(document.activeElement.dataset.name);
    const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: names.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    select(names.at(next % names.length), true);
  };
  panel.removeAttribute("aria-label");
  select(selected, false);
}
