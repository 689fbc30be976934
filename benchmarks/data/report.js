// Charts take the colours of the page, which follow the reader's scheme, and move when it changes.
(() => {
  const INK = "#444444"; // the colour that a figure leaves to the page
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const charts = [...document.querySelectorAll(".js-plotly-plot")];
  const heights = new Map(charts.map((chart) => [chart, chart.layout.height]));
  const inked = new Map(
    charts.map((chart) => [chart, chart.data.flatMap((t, i) => (t.line?.color === INK || t.marker?.color === INK ? [i] : []))]),
  );

  function paint() {
    const style = getComputedStyle(document.documentElement);
    const [ink, paper, line] = ["--ink", "--paper", "--line"].map((name) => style.getPropertyValue(name).trim());
    for (const chart of charts) {
      const traces = inked.get(chart);
      if (traces.length) Plotly.restyle(chart, { "line.color": ink, "marker.color": ink }, traces);
      // On a touch screen a drag scrolls the page; with a mouse it zooms.
      const dragmode = window.matchMedia("(hover: hover)").matches ? "zoom" : false;
      const narrow = chart.clientWidth < 500; // the legend has a line per entry
      const height = heights.get(chart) + (narrow && chart.layout.showlegend !== false ? 110 : 0);
      const look = { dragmode, height, "legend.maxheight": narrow ? 250 : 150, "font.color": ink, "hoverlabel.bgcolor": paper, "hoverlabel.font.color": ink };
      for (const axis of ["xaxis", "yaxis"]) {
        Object.assign(look, { [`${axis}.gridcolor`]: line, [`${axis}.linecolor`]: line, [`${axis}.tickcolor`]: line });
      }
      if (chart.layout.updatemenus) {
        Object.assign(look, { "updatemenus[0].bgcolor": paper, "updatemenus[0].bordercolor": line, "updatemenus[0].font.color": ink });
      }
      Plotly.relayout(chart, look);
      Plotly.Plots.resize(chart); // it was drawn before those beside it were there
    }
  }

  paint();
  dark.addEventListener("change", paint);
  window.matchMedia("(orientation: portrait)").addEventListener("change", paint);
  // A phone has no room for an open table of contents.
  if (window.innerWidth < 700) document.querySelector("nav details").open = false;
})();
