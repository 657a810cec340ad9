//! Curves as pictures.

use std::path::Path;

use plotters::prelude::*;

/// What is drawn: curves over a common axis, both axes logarithmic.
pub(crate) struct Chart {
    pub(crate) title: &'static str,
    pub(crate) across: &'static str,
    pub(crate) up: &'static str,
    pub(crate) curves: Vec<Curve>,
}

/// One curve, or a line for what limits others.
pub(crate) struct Curve {
    pub(crate) label: String,
    pub(crate) points: Vec<(f64, f64)>,
    pub(crate) is_limit: bool,
}

impl Curve {
    pub(crate) fn new(label: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        Self { label: label.into(), points, is_limit: false }
    }

    pub(crate) fn limit(label: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        Self { is_limit: true, ..Self::new(label, points) }
    }
}

const COLOURS: [RGBColor; 5] = [
    RGBColor(31, 119, 180),
    RGBColor(214, 39, 40),
    RGBColor(44, 160, 44),
    RGBColor(148, 103, 189),
    RGBColor(140, 86, 75),
];

impl Chart {
    /// Draws it as SVG.
    pub(crate) fn draw(&self, path: &Path) {
        let points = || self.curves.iter().flat_map(|curve| &curve.points);
        let range = |axis: fn(&(f64, f64)) -> f64, room: f64| {
            let least = points().map(axis).fold(f64::INFINITY, f64::min);
            let most = points().map(axis).fold(0.0, f64::max);
            (least / room..most * room).log_scale()
        };
        let area = SVGBackend::new(path, (820, 480)).into_drawing_area();
        area.fill(&WHITE).unwrap();
        let mut chart = ChartBuilder::on(&area)
            .caption(self.title, ("sans-serif", 20))
            .margin(12)
            .x_label_area_size(45)
            .y_label_area_size(75)
            .build_cartesian_2d(range(|point| point.0, 1.1), range(|point| point.1, 2.0))
            .unwrap();
        chart
            .configure_mesh()
            .x_desc(self.across)
            .y_desc(self.up)
            .x_label_formatter(&ToString::to_string)
            .y_label_formatter(&ToString::to_string)
            .light_line_style(RGBColor(240, 240, 240))
            .label_style(("sans-serif", 13))
            .draw()
            .unwrap();
        for (curve, colour) in self.curves.iter().zip(COLOURS.iter().cycle()) {
            let style = if curve.is_limit { BLACK.mix(0.5) } else { colour.mix(1.0) };
            let width = if curve.is_limit { 1 } else { 2 };
            let line = style.stroke_width(width);
            chart
                .draw_series(LineSeries::new(curve.points.iter().copied(), line))
                .unwrap()
                .label(&*curve.label)
                .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 22, y)], line));
            if !curve.is_limit {
                let dots = curve.points.iter().map(|point| Circle::new(*point, 3, style.filled()));
                chart.draw_series(dots).unwrap();
            }
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.85))
            .border_style(RGBColor(200, 200, 200))
            .label_font(("sans-serif", 13))
            .draw()
            .unwrap();
        area.present().unwrap();
    }
}
