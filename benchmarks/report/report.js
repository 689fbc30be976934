// Draws the charts in the colours of the page, which follow the reader's scheme.
(() => {
  const INK = "#444444"; // the colour that a figure leaves to the page
  const config = { responsive: true, displayModeBar: false };
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const charts = [...document.querySelectorAll(".chart")];

  // On a narrow screen the legend has a line per entry.
  const isNarrow = (chart) => chart.clientWidth < 500;

  function inPageColours(trace, ink) {
    const painted = { ...trace };
    for (const part of ["line", "marker"]) {
      if (trace[part]?.color === INK) painted[part] = { ...trace[part], color: ink };
    }
    return painted;
  }

  function draw(chart, { data, layout }) {
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
        updatemenus: layout.updatemenus?.map((menu) => ({ ...menu, bgcolor: paper, bordercolor: line })),
        // On a touch screen a drag scrolls the page; with a mouse it zooms.
        dragmode: window.matchMedia("(hover: hover)").matches ? "zoom" : false,
      },
      config,
    );
  }

  const drawAll = () => charts.forEach((chart, i) => draw(chart, figures[i]));
  drawAll();
  for (const query of ["(prefers-color-scheme: dark)", "(orientation: portrait)"]) {
    window.matchMedia(query).addEventListener("change", drawAll);
  }
  // A phone has no room for an open table of contents.
  if (window.innerWidth < 700) document.querySelector("nav details").open = false;
})();
