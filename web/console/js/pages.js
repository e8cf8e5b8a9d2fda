// Every page: its address, the scopes that it takes, and what shows it.

import { audit } from "./pages/audit.js";
import { backTest } from "./pages/back-test.js";
import { client } from "./pages/client.js";
import { clients } from "./pages/clients.js";
import { countries } from "./pages/countries.js";
import { imports } from "./pages/imports.js";
import { operations } from "./pages/operations.js";
import { overview } from "./pages/overview.js";
import { participations } from "./pages/participations.js";
import { products } from "./pages/products.js";
import { promotion } from "./pages/promotion.js";
import { changePromotion, copyPromotion, createPromotion } from "./pages/promotion-edit.js";
import { promotions } from "./pages/promotions.js";
import { quarantine } from "./pages/quarantine.js";

/** A page is shown by `page({params, query, signal, api, refresh})`, which returns its parts. */
export const ROUTES = [
  { path: ["overview"], scopes: ["view"], page: overview },
  { path: ["promotions"], scopes: ["view"], page: promotions },
  { path: ["promotions", "new"], scopes: ["view", "edit"], page: createPromotion },
  { path: ["promotions", ":id"], scopes: ["view"], page: promotion },
  { path: ["promotions", ":id", "edit"], scopes: ["view", "edit"], page: changePromotion },
  { path: ["promotions", ":id", "copy"], scopes: ["view", "edit"], page: copyPromotion },
  { path: ["promotions", ":id", "back-test"], scopes: ["view"], page: backTest },
  { path: ["clients"], scopes: ["support"], page: clients },
  { path: ["clients", ":id"], scopes: ["support"], page: client },
  { path: ["participations"], scopes: ["support"], page: participations },
  { path: ["quarantine"], scopes: ["support"], page: quarantine },
  { path: ["imports"], scopes: ["import"], page: imports },
  { path: ["countries"], scopes: ["view"], page: countries },
  { path: ["products"], scopes: ["view"], page: products },
  { path: ["operations"], scopes: ["view"], page: operations },
  { path: ["audit"], scopes: ["audit"], page: audit },
];

/** What the menu leads to, in its order. */
export const NAVIGATION = [
  { name: "overview", scope: "view" },
  { name: "promotions", scope: "view" },
  { name: "clients", scope: "support" },
  { name: "participations", scope: "support" },
  { name: "quarantine", scope: "support" },
  { name: "imports", scope: "import" },
  { name: "countries", scope: "view" },
  { name: "products", scope: "view" },
  { name: "operations", scope: "view" },
  { name: "audit", scope: "audit" },
];
