// Light, dark, or as the system says. The choice is kept for this browser.

const KEY = "imslab-theme";
const ORDER = ["system", "light", "dark"];

const stored = () => {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null; // a browser without storage follows the system
  }
};

export const theme = {
  get chosen() {
    return ORDER.includes(document.documentElement.dataset.theme) ? document.documentElement.dataset.theme : "system";
  },
  choose(name) {
    document.documentElement.dataset.theme = name;
    try {
      localStorage.setItem(KEY, name);
    } catch {
      // chosen for this page alone
    }
  },
  next() {
    const name = ORDER[(ORDER.indexOf(theme.chosen) + 1) % ORDER.length];
    theme.choose(name);
    return name;
  },
  restore() {
    const name = stored();
    if (ORDER.includes(name)) document.documentElement.dataset.theme = name;
  },
};
