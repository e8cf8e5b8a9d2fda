// Dialogs: each says what will be done, and nothing is done before its button is pressed.

import { h, newId, put } from "../dom.js";
import { t } from "../i18n.js";
import { field, textArea } from "./fields.js";
import { problemBox } from "./problem.js";

/**
 * Asks before something is done.
 *
 * @param {object} asked
 * @param {string} asked.title
 * @param {(Node|string)[]} asked.says what will happen
 * @param {string} asked.does the button
 * @param {boolean} [asked.danger] whether it cannot be taken back
 * @param {ReturnType<typeof field>[]} [asked.fields] inputs of its own; faults are shown beside them by name
 * @param {string|null} [asked.reason] the name of the API's field for the reason, where it wants one
 * @param {(reason: string|undefined) => Promise<T>} asked.act does it; an error is shown, and the dialog stays
 * @param {Trial|null} [asked.trial] tries it first: the button does it only once what would happen was shown
 * @returns {Promise<T|null>} what `act` returned, `null` where it was not done
 * @template T
 *
 * @typedef {object} Trial
 * @property {(reason: string|undefined) => Promise<object>} act the dry run
 * @property {(result: object) => (Node|string)[]} shows what would happen, in words
 */
export function ask({ title, says, does, danger = false, fields = [], reason = null, act, trial = null }) {
  return new Promise((resolve) => {
    const heading = newId("dialog");
    const faults = h("div");
    const preview = h("div", { role: "status" });
    const why = reason && field({ name: reason, label: t("reason"), hint: t("reason.hint"), control: textArea({ rows: 2, required: true, maxlength: 1000 }) });
    const all = [...fields, ...(why ? [why] : [])];
    const button = h("button", { type: "submit" });
    let isTried = trial === null;
    let done = null;
    showButton();
    const form = h(
      "form",
      { novalidate: true, onsubmit: submit, oninput: changed },
      h("h2", { id: heading }, title),
      says,
      fields.length > 0 && h("div", { class: "fields" }, fields.map(({ element }) => element)),
      why?.element,
      h("div", {}, faults, preview),
      h("div", { class: "actions" }, h("button", { type: "button", onclick: () => dialog.close() }, t("cancel")), button),
    );
    const dialog = h("dialog", { "aria-labelledby": heading, onclose: closed }, form);

    function showButton() {
      button.textContent = isTried ? does : t("trial.button");
      button.className = isTried && danger ? "danger" : "primary";
    }

    /** What was tried was something else. */
    function changed() {
      if (trial === null || !isTried) return;
      isTried = false;
      put(preview);
      showButton();
    }

    async function submit(event) {
      event.preventDefault();
      if (button.getAttribute("aria-busy") === "true") return;
      for (const one of all) one.fault(null);
      put(faults);
      const given = why?.control.get()?.trim();
      if (why && !given) {
        why.fault(t("field.required"));
        why.control.element.focus();
        return;
      }
      button.setAttribute("aria-busy", "true");
      try {
        if (isTried) {
          done = await act(given);
          dialog.close();
        } else {
          put(preview, h("div", { class: "notice stack tight", "data-trial": true }, trial.shows(await trial.act(given))));
          isTried = true;
          showButton();
        }
      } catch (error) {
        const beside = all.filter(({ name }) => error.errors?.some((one) => one.field === name));
        for (const one of beside) one.fault(error.errors.find((other) => other.field === one.name).reason);
        put(faults, problemBox(error, beside.map(({ name }) => name)));
      } finally {
        button.removeAttribute("aria-busy");
      }
    }

    function closed() {
      dialog.remove();
      resolve(done);
    }

    document.body.append(dialog);
    dialog.showModal();
  });
}
