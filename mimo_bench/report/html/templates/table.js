// The table of layouts: sorting, filtering, keys. Without this script the page still says all that it says.
{
  const root = document.documentElement;
  root.classList.add("js");
  const table = document.getElementById("layouts-table");
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const filter = document.getElementById("filter");
  const shown = document.getElementById("shown");
  const statuses = Array.from(document.querySelectorAll("button[data-status]"));

  const valueOf = (row, column) => {
    const said = row.cells[column].dataset.v;
    if (said === undefined || said === "") return null;
    const number = Number(said);
    return Number.isNaN(number) ? said : number;
  };

  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });

  // What is unknown stays last, whichever way the others are sorted.
  const sortBy = (head, descending) => {
    const column = head.cellIndex;
    const sign = descending ? -1 : 1;
    rows.sort((one, other) => {
      const [a, b] = [valueOf(one, column), valueOf(other, column)];
      if (a === null || b === null) return (a === null) - (b === null);
      return sign * compare(a, b);
    });
    for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    body.append(...rows);
  };

  table.tHead.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const head = button.closest("th");
    const before = head.getAttribute("aria-sort");
    const first = head.dataset.first === "descending";
    sortBy(head, before === null ? first : before === "ascending");
  });

  const parts = (index) => document.querySelectorAll(`[data-layout="${index}"]`);

  const everything = shown.textContent;
  const refilter = () => {
    const wanted = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const pressed = statuses.filter((each) => each.getAttribute("aria-pressed") === "true").map((each) => each.dataset.status);
    let count = 0;
    for (const row of rows) {
      const said = `${row.textContent} ${row.dataset.text}`.toLowerCase();
      const keep = wanted.every((word) => said.includes(word)) && (!pressed.length || pressed.includes(row.dataset.status));
      count += keep;
      if (row.hidden === !keep) continue;
      row.hidden = !keep;
      for (const part of parts(row.dataset.index)) part.classList.toggle("out", !keep);
    }
    shown.textContent = count === rows.length ? everything : `${count} of ${everything}`;
  };

  filter.addEventListener("input", refilter);
  for (const button of statuses) {
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
      refilter();
    });
  }

  // The row under the pointer or the focus stands out in every chart.
  let lit = null;
  const light = (event) => {
    const row = event.target.closest ? event.target.closest("tr[data-index]") : null;
    if (row === lit) return;
    for (const [each, on] of [[lit, false], [row, true]]) {
      if (each) for (const part of parts(each.dataset.index)) part.classList.toggle("lit", on);
    }
    lit = row;
  };
  body.addEventListener("pointerover", light);
  body.addEventListener("focusin", light);
  body.addEventListener("pointerleave", light);
  body.addEventListener("focusout", light);

  const move = (event, row) => {
    const open = rows.filter((each) => !each.hidden);
    const at = open.indexOf(row);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: open.length - 1 }[event.key];
    if (to === undefined || !open[to]) return;
    event.preventDefault();
    open[to].querySelector("a").focus();
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const row = event.target.closest("tr[data-index]");
    if (event.target === filter) {
      if (event.key === "Escape") {
        filter.value = "";
        refilter();
      } else if (event.key === "ArrowDown") {
        const first = rows.find((each) => !each.hidden);
        if (first) first.querySelector("a").focus();
        event.preventDefault();
      }
    } else if (event.key === "/") {
      event.preventDefault();
      filter.focus();
      filter.select();
    } else if (row) {
      move(event, row);
    }
  });
}
