// What stands here when the page has no session: how to get one.

import { openSession } from "./api.js";
import { el, replace } from "./dom.js";
import { field, problem } from "./parts.js";

const WRONG = "This token does not open the console of the lab that runs now; every start of a lab makes a new one. imslab console prints the link.";

/** What a refused token means: the server tells a wrong one and a missing one alike. */
export const refusal = (error) => (error.status === 401 ? new Error(WRONG) : error);

/** `reason` is what was refused, if anything; `onOpen()` is called with a session open. */
export function signInView(reason, onOpen) {
  const said = el("div", {}, reason && problem(reason));
  const token = el("input", { type: "password", autocomplete: "off", spellcheck: "false", required: true, name: "token" });
  const form = el(
    "form",
    {
      class: "card form",
      on: {
        submit: async (event) => {
          event.preventDefault();
          try {
            // The whole link will do as well as the token alone.
            await openSession(token.value.trim().replace(/^.*#token=/, ""));
          } catch (error) {
            replace(said, problem(refusal(error)));
            token.select();
            return;
          }
          onOpen();
        },
      },
    },
    field("Token, or the whole link", token, "imslab console prints the link of the lab that runs."),
    el("button", { class: "primary" }, "Open the console"),
  );
  return el("section", { class: "narrow" }, el("h1", {}, "imslab console"), el("p", {}, "This page shows a lab to who may read its state folder."), said, form);
}
