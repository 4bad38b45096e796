// The shell: which page this is, the way to the others, the theme. A page is a module of its own.

import { makeElement } from "./views.js";

const PAGES = [
  { path: "", title: "qkv", module: "./home.js", styles: [], named: "" },
  { path: "learn", title: "Learn · qkv", module: "./learn.js", styles: ["learn.css"], named: "Learn" },
  { path: "worksheet", title: "Worksheet · qkv", module: "./worksheet.js", styles: ["worksheet.css"], named: "Worksheet" },
  { path: "inspect", title: "Inspect · qkv", module: "./inspect.js", styles: ["layout.css", "inspect.css"], named: "Inspect" },
  { path: "train", title: "Train · qkv", module: "./train.js", styles: ["train.css"], named: "Train" },
  { path: "practice", title: "Practice · qkv", module: "./practice.js", styles: ["practice.css"], named: "Practice" },
];

const here = location.pathname.split("/").at(-1);
const page = PAGES.find(({ path }) => path === here) ?? PAGES[0];
const nav = document.querySelector("nav");
for (const { path, named } of PAGES.filter(({ named }) => named)) {
  const link = makeElement("a", { href: path, text: named });
  if (path === page.path) link.setAttribute("aria-current", "page");
  nav.append(link);
}

const prefers = matchMedia("(prefers-color-scheme: dark)");
const button = document.getElementById("theme");
const themeNow = () => document.documentElement.dataset.theme ?? (prefers.matches ? "dark" : "light");
const tellTheme = () => {
  button.textContent = themeNow() === "dark" ? "light" : "dark";
  button.setAttribute("aria-label", `turn the page ${button.textContent}`);
  document.dispatchEvent(new CustomEvent("qkv-theme", { detail: themeNow() }));
};
try {
  const kept = localStorage.getItem("qkv-theme");
  if (kept) document.documentElement.dataset.theme = kept;
} catch {
  // A browser that keeps nothing follows the system.
}
button.addEventListener("click", () => {
  const theme = themeNow() === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem("qkv-theme", theme);
  } catch {
    // As above.
  }
  tellTheme();
});
prefers.addEventListener("change", tellTheme);
tellTheme();

document.title = page.title;
for (const style of page.styles) document.head.append(makeElement("link", { rel: "stylesheet", href: `assets/${style}` }));
const main = document.getElementById("page");
try {
  const { mount } = await import(page.module);
  await mount(main, { theme: themeNow, facts: document.getElementById("facts") });
  document.documentElement.dataset.ready = "true";
} catch (error) {
  main.replaceChildren(makeElement("p", { class: "problem", role: "alert", text: error.message }));
  document.documentElement.dataset.ready = "failed";
  throw error;
}
