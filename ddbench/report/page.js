window.$("table.interactive").DataTable({
  autoWidth: false,
  order: [],
  layout: { topStart: "search", topEnd: null, bottomStart: "info", bottomEnd: "paging" },
  language: { search: "Filter:" },
});
