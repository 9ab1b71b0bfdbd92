// What the theme leaves out: a name for the search dialog and for each copy button's region, and code and tables that scroll by keyboard.
"use strict";

document.querySelector(".md-search")?.setAttribute("aria-label", "Search");

function complete() {
  document.querySelectorAll(".md-code__nav:not([aria-label])").forEach((nav, index) => {
    nav.setAttribute("aria-label", `Code block ${index + 1}, ${nav.closest(".highlight")?.querySelector("pre")?.id ?? ""}`);
  });
  document.querySelectorAll(".md-typeset pre > code:not([tabindex])").forEach((code) => code.setAttribute("tabindex", "0"));
  document.querySelectorAll(".md-typeset__scrollwrap:not([tabindex])").forEach((table) => table.setAttribute("tabindex", "0"));
}

complete();
new MutationObserver(complete).observe(document.body, { childList: true, subtree: true });
