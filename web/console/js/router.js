// Addresses: `#/promotions/1?tab=rules`. What a page shows is in its address, so that it can be shared.

/** What an address names: the parts of its path, and its query. */
export function parse(hash) {
  const [path, query = ""] = hash.replace(/^#/, "").split("?", 2);
  const parts = path.split("/").filter((part) => part !== "");
  return { parts: parts.map(decoded), query: Object.fromEntries(new URLSearchParams(query)) };
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** The address of a page: `link("promotions", 1, {tab: "rules"})`. */
export function link(...parts) {
  const query = typeof parts.at(-1) === "object" ? parts.pop() : {};
  const pairs = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const text = new URLSearchParams(pairs).toString();
  return `#/${parts.map(encodeURIComponent).join("/")}${text && `?${text}`}`;
}

/** Goes to an address; in place of the present one where it is only another view of the same. */
export function go(address, { replace = false } = {}) {
  if (replace) {
    history.replaceState(null, "", address);
    dispatchEvent(new HashChangeEvent("hashchange"));
  } else location.hash = address;
}

/**
 * Finds the page of an address. A route is `["promotions", ":id"]`; the first that fits is taken.
 * @returns {{route, params, query}|null}
 */
export function find(routes, { parts, query }) {
  for (const route of routes) {
    if (route.path.length !== parts.length) continue;
    const params = {};
    const fits = route.path.every((name, at) => {
      if (!name.startsWith(":")) return name === parts[at];
      params[name.slice(1)] = parts[at];
      return true;
    });
    if (fits) return { route, params, query };
  }
  return null;
}
