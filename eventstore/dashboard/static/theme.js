// Before the first paint: the theme chosen last time, and that there are scripts.
const chosen = (() => { try { return localStorage.getItem("eventstore-theme"); } catch { return null; } })();
if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
document.documentElement.classList.add("js");
