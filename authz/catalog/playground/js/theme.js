import { $ } from "./dom.js";

const STORED = "playground-theme";

/** Dark unless the reader chose the light theme in this session. The theme is all that the page stores. */
export function startTheme() {
  showTheme(stored() === "light");
  $("theme").addEventListener("click", () => {
    const light = document.documentElement.dataset.theme === "dark";
    showTheme(light);
    store(light ? "light" : "dark");
  });
}

function showTheme(light) {
  document.documentElement.dataset.theme = light ? "light" : "dark";
  $("theme").textContent = light ? "Dark theme" : "Light theme";
}

// Browsers that block storage throw, and the choice then lasts until the page is left.
function stored() {
  try {
    return sessionStorage.getItem(STORED);
  } catch {
    return null;
  }
}

function store(theme) {
  try {
    sessionStorage.setItem(STORED, theme);
  } catch {
    return;
  }
}
