// A PNG dropped anywhere, or chosen: its settings come back. The page itself is never left for it.

import { post } from "./api.js";
import { byId } from "./dom.js";

export function acceptPictures(onRecipe, onProblem) {
  let depth = 0;
  const carriesFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  const read = async (file) => {
    try {
      const { recipes } = await post("/v1/recipes", file, "image/png");
      onRecipe(recipes[0], file.name);
    } catch (error) {
      onProblem(error);
    }
  };
  addEventListener("dragenter", (event) => {
    if (!carriesFiles(event) || event.target.closest?.(".takes-files")) return;
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
    if (event.target.closest?.(".takes-files")) return;
    const file = event.dataTransfer?.files[0];
    if (file) read(file);
  });
  byId("open-picture").addEventListener("click", () => byId("picture-file").click());
  byId("picture-file").addEventListener("change", (event) => {
    if (event.target.files[0]) read(event.target.files[0]);
    event.target.value = "";
  });
}
