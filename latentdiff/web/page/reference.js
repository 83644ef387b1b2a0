// The API's description as a page, made from /openapi.json: nothing is loaded from elsewhere.

import { get } from "./api.js";
import { byId, make, sentence } from "./dom.js";

const document_ = await get("/openapi.json");

function resolve(schema) {
  if (!schema?.$ref) return schema ?? {};
  return document_.components.schemas[schema.$ref.split("/").pop()];
}

function kind(schema) {
  const plain = resolve(schema);
  if (plain.anyOf) return plain.anyOf.map(kind).filter((text) => text !== "null").join(" or ");
  if (plain.enum) return plain.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (plain.const !== undefined) return JSON.stringify(plain.const);
  const bounds = [
    [plain.minimum, "≥"], [plain.maximum, "≤"],
    [plain.maxLength, "characters ≤"], [plain.maxItems, "items ≤"],
  ].filter(([value]) => value !== undefined).map(([value, sign]) => ` ${sign} ${value}`).join(",");
  if (plain.type === "array") return `list of ${kind(plain.items)}${bounds}`;
  return `${schema.$ref ? plain.title : plain.type ?? "any"}${bounds}`;
}

function rows(entries) {
  return make("table", {}, make("tbody", {}, ...entries.map(([name, what, text]) => make(
    "tr", {}, make("td", {}, make("code", { text: name })), make("td", { text: what }), make("td", { class: "soft", text }),
  ))));
}

function fields(schema) {
  const plain = resolve(schema);
  const properties = Object.entries(plain.properties ?? {});
  return rows(properties.map(([name, field]) => {
    const needed = (plain.required ?? []).includes(name);
    const usual = field.default === undefined || field.default === null ? "" : `; ${JSON.stringify(field.default)} by default`;
    return [name, kind(field) + (needed ? "" : usual), field.description ?? ""];
  }));
}

function example(method, path, body) {
  const parts = [`curl -X ${method.toUpperCase()} ${location.origin}${path}`];
  if (body?.["application/json"] && path === "/v1/images") {
    parts.push("-H 'content-type: application/json'", `-d '{"prompt": "a cat in the snow", "seed": 0}'`);
  } else if (body?.["image/png"]) parts.push("-H 'content-type: image/png'", "--data-binary @cat.png");
  return parts.join(" \\\n  ");
}

function card(path, method, call) {
  const body = call.requestBody?.content;
  const answer = Object.entries(call.responses).find(([code]) => code.startsWith("2"));
  const json = answer?.[1].content?.["application/json"]?.schema;
  const inside = [make("pre", { text: example(method, path, body) })];
  if (call.parameters) {
    inside.push(make("h3", { text: "Parameters" }));
    inside.push(rows(call.parameters.map((one) => [one.name, kind(one.schema), one.description ?? ""])));
  }
  if (body?.["application/json"]) inside.push(make("h3", { text: "Body" }), fields(body["application/json"].schema));
  if (json) {
    const listed = json.type === "array" ? json.items : json;
    inside.push(make("h3", { text: json.type === "array" ? "Answer: a list of" : "Answer" }), fields(listed));
  }
  const refused = Object.entries(call.responses).filter(([code]) => !code.startsWith("2"));
  inside.push(make("h3", { text: "Refusals, each {\"error\": a sentence}" }));
  inside.push(rows(refused.map(([code, one]) => [code, "", one.description ?? ""])));
  const summary = make(
    "summary", {}, make("b", { text: method.toUpperCase() }), make("code", { text: path }),
    make("span", { class: "soft", text: (call.description ?? call.summary).split(/(?<=\.)\s/)[0] }),
  );
  return make("details", { class: "call card" }, summary, make("p", { text: (call.description ?? "").replaceAll("`", "") }), ...inside);
}

const place = byId("reference");
place.append(make("h1", { text: "The API" }), make("p", { class: "soft", text: sentence(document_.info.description.replaceAll("`", "")) }));
const groups = new Map([["images", []], ["jobs", []], ["lessons", []], ["server", []]]);
for (const [path, methods] of Object.entries(document_.paths)) {
  for (const [method, call] of Object.entries(methods)) groups.get(call.tags?.[0] ?? "server").push(card(path, method, call));
}
for (const [name, cards] of groups) place.append(make("h2", { text: name }), ...cards);
