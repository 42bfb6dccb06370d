// Applies the reader's choice of light or dark before the first paint, so it is loaded blocking in <head>.
// Without a choice the stylesheet follows the system.

const THEME_KEY = "meterbook-theme";

function applyTheme(choice) {
  if (choice === "light" || choice === "dark") document.documentElement.dataset.theme = choice;
  else delete document.documentElement.dataset.theme;
}

function storedTheme() {
  try {
    return localStorage.getItem(THEME_KEY);
  } catch {
    return null; // storage may be forbidden; the system's scheme is a fine answer
  }
}

applyTheme(storedTheme());

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-theme-toggle]");
  if (!button) return;
  const shown = document.documentElement.dataset.theme;
  const isDark = shown ? shown === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const choice = isDark ? "light" : "dark";
  applyTheme(choice);
  try {
    localStorage.setItem(THEME_KEY, choice);
  } catch {
    // the choice lasts for this page
  }
});
