// The door: a password, and back to the page.

import { post } from "./api.js";
import { byId, sentence } from "./dom.js";

byId("door").addEventListener("submit", async (event) => {
  event.preventDefault();
  const place = byId("problem");
  place.hidden = true;
  try {
    await post("/v1/login", { password: byId("password").value });
    location.assign("/");
  } catch (error) {
    place.textContent = sentence(error.message);
    place.hidden = false;
    byId("password").select();
  }
});
