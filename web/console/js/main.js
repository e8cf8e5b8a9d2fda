import { setLanguage } from "./i18n.js";
import { Shell } from "./shell.js";
import { language, theme } from "./settings.js";

setLanguage([new URLSearchParams(location.search).get("lang"), language.get(), ...navigator.languages]);
theme.apply();
new Shell(document.getElementById("app")).start();
