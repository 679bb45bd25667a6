// Cells without a number come last in both directions.
const compare = (sign) => (a, b) => (a === "") - (b === "") || sign * (a - b);
const order = window.$.fn.dataTable.ext.type.order;
order["measured-asc"] = compare(1);
order["measured-desc"] = compare(-1);
const filter = { extend: "searchList", title: "Filter by [title]" };
window.$("table.interactive").DataTable({
  autoWidth: false,
  order: [],
  columnDefs: [
    { targets: "number", type: "measured", orderSequence: ["desc", "asc", ""] },
    { targets: "filter", columnControl: [{ extend: "dropdown", icon: "search", text: "Filter", content: [filter] }] },
  ],
  layout: { topStart: "search", topEnd: null, bottomStart: "info", bottomEnd: "paging" },
  language: { search: "Filter:" },
});

const mark = () => {
  for (const box of document.querySelectorAll(".dt-layout-table > div")) {
    box.closest(".scroll").classList.toggle("cut", box.scrollWidth > box.clientWidth);
  }
};
window.addEventListener("resize", mark);
mark();

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") document.querySelector(".record:target .close a")?.click();
});
