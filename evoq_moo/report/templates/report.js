"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const body = document.querySelector("#points tbody");
  const rows = [...body.rows];
  const targets = data.points.map(() => []);
  for (const target of document.querySelectorAll('.front [id*="point-"]')) {
    targets[Number(target.id.split("point-")[1])].push(target);
  }
  let kept = data.chosen;

  function bar(bits, kind) {
    const cell = document.createElement("span");
    cell.className = `bar ${kind}`;
    const length = document.createElement("i");
    length.style.width = `${Math.min(bits, 8) * 0.7}rem`;
    cell.append(length, bits > 8 ? `${bits} (float)` : String(bits));
    return cell;
  }

  function show(row) {
    const point = data.points[row];
    const costs = data.costs.map((cost) => `, ${point[cost.key].toPrecision(4)} ${cost.unit}`).join("");
    document.getElementById("policy-title").textContent = `Point ${row}: difference ${point.difference.toPrecision(3)}` +
      costs + (row === kept ? " (kept)" : "");
    const list = document.getElementById("policy-bits");
    const cells = ["layer", "weight bits", "activation bits"].map((text) => {
      const head = document.createElement("b");
      head.textContent = text;
      return head;
    });
    data.layers.forEach((layer, i) => {
      const name = document.createElement("span");
      name.textContent = layer;
      cells.push(name, bar(point.weight_bits[i], "weight"), bar(point.activation_bits[i], "activation"));
    });
    list.replaceChildren(...cells);
    targets.forEach((found, i) => found.forEach((target) => {
      target.classList.toggle("shown", i === row);
      target.classList.toggle("kept", i === kept);
    }));
    rows.forEach((element) => element.classList.toggle("kept", Number(element.dataset.row) === kept));
  }

  function listen(element, row) {
    element.addEventListener("mouseenter", () => show(row));
    element.addEventListener("mouseleave", () => show(kept));
    element.addEventListener("focus", () => show(row));
    element.addEventListener("click", () => { kept = row; show(row); });
    element.addEventListener("keydown", (event) => {
      if (event.key === "Enter") { kept = row; show(row); }
    });
  }
  rows.forEach((element) => listen(element, Number(element.dataset.row)));
  targets.forEach((found, row) => found.forEach((target) => listen(target, row)));

  for (const button of document.querySelectorAll("#points button")) {
    button.addEventListener("click", () => {
      const head = button.parentElement;
      const direction = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      for (const other of head.parentElement.cells) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
      const key = button.dataset.key;
      const value = (element) => {
        const row = Number(element.dataset.row);
        return key === "row" ? row : data.points[row][key];
      };
      body.append(...[...rows].sort((a, b) => direction * (value(a) - value(b)) || a.dataset.row - b.dataset.row));
    });
  }

  const limits = [...document.querySelectorAll("[data-limit]")];
  function filter() {
    let count = 0;
    rows.forEach((element) => {
      const row = Number(element.dataset.row);
      const inside = limits.every((input) => input.value === "" || data.points[row][input.dataset.limit] <= Number(input.value));
      element.hidden = !inside;
      targets[row].forEach((target) => target.classList.toggle("hidden", !inside));
      count += inside ? 1 : 0;
    });
    document.getElementById("count").textContent = `${count} of ${rows.length} shown`;
  }
  limits.forEach((input) => input.addEventListener("input", filter));
  show(kept);
  // The chosen row is in the middle of the table's window.
  const table = document.querySelector(".scroll");
  const row = rows.find((element) => Number(element.dataset.row) === kept);
  table.scrollTop = Math.max(0, row.offsetTop - table.clientHeight / 2);
})();
