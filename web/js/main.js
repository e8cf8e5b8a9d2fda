// Puts the page together.

import { RidePromo } from "./api.js";
import { ServerClock } from "./clock.js";
import { Language, chooseLocale } from "./i18n.js";
import { Journey } from "./journey.js";
import { Stage } from "./stage.js";
import { TokenKeeper } from "./token.js";

const token = new TokenKeeper();
token.takeFromAddress();

const wanted = new URLSearchParams(location.search).get("lang");
const language = new Language(chooseLocale([wanted, ...navigator.languages]));
document.documentElement.lang = language.locale;

const clock = new ServerClock();
const api = new RidePromo({ token: () => token.get(), clock });
new Journey({ api, clock, language, token, stage: new Stage(language) }).begin();
