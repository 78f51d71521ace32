const find = id => document.getElementById(id);
const form = find("controls"), grid = find("cards"), slider = find("try"), large = find("large");
const cards = [...grid.children], all = [...document.querySelectorAll(".card")];
const names = {"0false": "passed", "0true": "false alarm", "1false": "missed", "1true": "found"};
const shown = () => [...grid.children].filter(card => !card.hidden);
// Between each two neighbouring scores there is one threshold; the first is below all of them.
const scores = [...new Set(cards.map(card => +card.dataset.score))].filter(Number.isFinite).sort((a, b) => a - b);
const own = document.body.dataset.limit === "" ? null : +document.body.dataset.limit;
let order = "", limit = own, open = null;

function judge() {
  const counts = {};
  for (const card of limit === null ? [] : all) {
    const verdict = names[card.dataset.label + (+card.dataset.score > limit)];
    const mark = card.querySelector("mark");
    card.dataset.verdict = mark.textContent = verdict;
    mark.className = verdict.replace(" ", "-");
    if (card.parentNode === grid) counts[verdict] = (counts[verdict] || 0) + 1;
  }
  for (const name of Object.values(names)) find("n-" + name.replace(" ", "-")).textContent = counts[name] || 0;
  find("tried").hidden = limit === null;
  find("chosen").value = limit === null ? "none chosen" : Number(limit.toPrecision(6));
  find("own").hidden = own === null || limit === own;
}
function apply() {
  const wish = Object.fromEntries(new FormData(form));
  judge();
  for (const card of cards)
    card.hidden = ["defect", "verdict"].some(key => wish[key] && wish[key] !== card.dataset[key]);
  if (wish.order !== order) grid.append(...cards.reverse());
  order = wish.order;
  document.body.classList.toggle("no-heat", !wish.heat);
  document.body.classList.toggle("no-outline", !wish.outline);
  document.documentElement.style.setProperty("--size", wish.size + "px");
  find("shown").value = shown().length;
}
function place(value) {
  slider.limit.value = scores.filter(score => score <= value).length;
}
function remember() {
  const wish = Object.fromEntries([...new FormData(form)].filter(([key, value]) => value && ["defect", "verdict", "order"].includes(key)));
  if (limit !== null && limit !== own) wish.limit = limit;
  if (open) wish.image = open.dataset.number;
  const text = new URLSearchParams(wish).toString();
  try { history.replaceState(null, "", text ? "#" + text : location.pathname); } catch { /* a page of its own */ }
}
function enlarge(card) {
  open = card;
  const box = card.querySelector("svg").getAttribute("viewBox"), number = card.dataset.number;
  large.querySelectorAll("svg").forEach((svg, k) => {
    const id = ["p", "h", "i"][k] + number;
    svg.parentNode.hidden = !find(id);
    svg.setAttribute("viewBox", box);
    svg.firstElementChild.setAttribute("href", "#" + id);
  });
  find("about").replaceChildren(card.querySelector("figcaption").cloneNode(true));
  if (!large.open) large.showModal();
  remember();
}
function step(by) {
  if (!by) return large.close();
  const list = shown(), at = list.findIndex(card => card.dataset.number === open.dataset.number);
  const next = list[at + by];
  if (next) enlarge(next);
}
slider.limit.max = scores.length;
slider.addEventListener("input", () => {
  const at = +slider.limit.value;
  limit = at === 0 ? (scores[0] ?? 0) - 1 : scores[at - 1];
  apply();
  remember();
});
slider.addEventListener("submit", event => event.preventDefault());
find("own").addEventListener("click", () => { limit = own; place(own); apply(); remember(); });
form.addEventListener("input", () => { apply(); remember(); });
for (const card of all) {
  card.querySelector(".pair").addEventListener("click", () => enlarge(card));
  card.addEventListener("keydown", event => { if (event.key === "Enter") enlarge(card); });
}
large.addEventListener("click", event => {
  if (event.target === large) large.close();
  if (event.target.dataset.step) step(+event.target.dataset.step);
});
large.addEventListener("keydown", event => {
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
large.addEventListener("close", () => { open = null; remember(); });

const asked = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
for (const key of ["defect", "verdict", "order"]) if (asked.get(key)) form[key].value = asked.get(key);
if (asked.get("limit")) limit = +asked.get("limit");
if (limit !== null) place(limit);
apply();
const first = cards.find(card => card.dataset.number === asked.get("image"));
if (first) enlarge(first);
