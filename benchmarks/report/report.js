// Draws the charts in the colours of the page, which follow the reader's scheme, and saves them.
(() => {
  const INK = "#444444"; // the colour that a figure leaves to the page
  const config = { responsive: true, displayModeBar: false };
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const charts = [...document.querySelectorAll(".chart")];

  // On a narrow screen the legend has a line per entry.
  const isNarrow = (chart) => chart.clientWidth < 500;
  const isFolded = (chart) => chart.closest("details:not([open])") !== null;

  function inPageColours(trace, ink) {
    const painted = { ...trace };
    for (const part of ["line", "marker"]) {
      if (trace[part]?.color === INK) painted[part] = { ...trace[part], color: ink };
    }
    return painted;
  }

  function draw(chart) {
    const { data, layout } = figures[charts.indexOf(chart)];
    const style = getComputedStyle(document.documentElement);
    const [ink, paper, line] = ["--ink", "--paper", "--line"].map((name) => style.getPropertyValue(name).trim());
    const lines = { gridcolor: line, linecolor: line, tickcolor: line };
    const roomy = layout.showlegend === false || !isNarrow(chart);
    Plotly.react(
      chart,
      data.map((trace) => inPageColours(trace, ink)),
      {
        ...layout,
        height: layout.height + (roomy ? 0 : 110),
        legend: { ...layout.legend, ...(roomy ? {} : { maxheight: 250 }) },
        font: { ...layout.font, color: ink },
        hoverlabel: { bgcolor: paper, bordercolor: line, font: { color: ink } },
        xaxis: { ...layout.xaxis, ...lines },
        yaxis: { ...layout.yaxis, ...lines },
        // On a touch screen a drag scrolls the page; with a mouse it zooms.
        dragmode: window.matchMedia("(hover: hover)").matches ? "zoom" : false,
      },
      config,
    );
  }

  const drawAll = () => charts.filter((chart) => !isFolded(chart)).forEach(draw);
  drawAll();
  for (const query of ["(prefers-color-scheme: dark)", "(orientation: portrait)"]) {
    window.matchMedia(query).addEventListener("change", drawAll);
  }
  // Charts have no size before their section is opened; the event does not bubble.
  document.addEventListener("toggle", (event) => {
    charts.filter((chart) => event.target.open && event.target.contains(chart)).forEach(draw);
  }, true);
  window.addEventListener("beforeprint", () => {
    document.querySelectorAll("details").forEach((details) => (details.open = true));
  });

  const fileName = (text) => text.trim().toLowerCase().replace(/[^a-z0-9]+/g, "-");

  function saveChart(figure, format) {
    const chart = figure.querySelector(".chart");
    const { data, layout } = figures[charts.indexOf(chart)];
    const filename = fileName(figure.querySelector("figcaption span").textContent);
    const size = { width: Math.max(chart.clientWidth, 640), height: layout.height, scale: 2 };
    Plotly.downloadImage({ data, layout: { ...layout, paper_bgcolor: "#ffffff" } }, { format, filename, ...size });
  }

  function saveTable(box) {
    const quoted = (cell) => `"${cell.textContent.replaceAll('"', '""')}"`;
    const rows = [...box.querySelectorAll("tr")].map((row) => [...row.cells].map(quoted).join(","));
    const before = [...document.querySelectorAll("h2, h3")].filter(
      (heading) => heading.compareDocumentPosition(box) & Node.DOCUMENT_POSITION_FOLLOWING,
    );
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([rows.join("\n") + "\n"], { type: "text/csv" }));
    link.download = `${fileName(before.at(-1).textContent)}.csv`;
    link.click();
  }

  // A click on a heading of a table sorts by its column, another one the other way round.
  function sortTable(heading) {
    const body = heading.closest("table").tBodies[0];
    const column = heading.cellIndex;
    const sign = heading.dataset.sorted === "down" ? 1 : -1;
    const value = (row) => row.cells[column].textContent.trim();
    const order = (a, b) => {
      const [x, y] = [parseFloat(value(a)), parseFloat(value(b))];
      return Number.isNaN(x) || Number.isNaN(y) ? value(a).localeCompare(value(b)) : x - y;
    };
    [...body.rows].sort((a, b) => sign * order(a, b)).forEach((row) => body.append(row));
    heading.dataset.sorted = sign < 0 ? "down" : "up";
  }

  document.addEventListener("click", ({ target }) => {
    if (target.closest("thead th")) sortTable(target.closest("th"));
    const format = target.dataset?.save;
    if (format === "csv") saveTable(target.closest(".table"));
    else if (format) saveChart(target.closest("figure"), format);
  });
})();
