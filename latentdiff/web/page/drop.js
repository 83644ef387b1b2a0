// A PNG dropped anywhere, or chosen: its settings come back; a picture without any is one to start
// from. The page itself is never left for it.

import { post } from "./api.js";
import { byId } from "./dom.js";

// onRecipe(recipe, name), onPicture(file): what to do; onPicture fails for what is no picture.
export function acceptPictures(onRecipe, onPicture, onProblem) {
  let depth = 0;
  const carriesFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  const read = async (file) => {
    let found;
    try {
      found = await post("/v1/recipes", file, "image/png");
    } catch (error) {
      await onPicture(file).catch(() => onProblem(error));
      return;
    }
    onRecipe(found.recipes[0], file.name);
  };
  addEventListener("dragenter", (event) => {
    if (!carriesFiles(event) || byId("draw-page").hidden) return;
    event.preventDefault();
    depth += 1;
    byId("drop").hidden = false;
  });
  addEventListener("dragleave", () => {
    depth = Math.max(0, depth - 1);
    if (depth === 0) byId("drop").hidden = true;
  });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    byId("drop").hidden = true;
    if (byId("draw-page").hidden) return;
    const file = event.dataTransfer?.files[0];
    if (file) read(file);
  });
  byId("open-picture").addEventListener("click", () => byId("picture-file").click());
  byId("picture-file").addEventListener("change", (event) => {
    if (event.target.files[0]) read(event.target.files[0]);
    event.target.value = "";
  });
}
