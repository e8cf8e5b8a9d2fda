// What this browser remembers of the operator's taste. Nothing else is ever stored.

const stored = (key) => ({
  get() {
    try {
      return localStorage.getItem(key);
    } catch {
      return null; // storage is forbidden
    }
  },
  set(value) {
    try {
      localStorage.setItem(key, value);
    } catch {
      // it lasts until the page is left
    }
  },
});

export const language = stored("ride-promo.console.language");

const storedTheme = stored("ride-promo.console.theme");

export const theme = {
  /** `light`, `dark`, or `system`, which follows the machine's. */
  get: () => storedTheme.get() ?? "system",
  set(value) {
    storedTheme.set(value);
    theme.apply(value);
  },
  apply(value = theme.get()) {
    if (value === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = value;
  },
};
