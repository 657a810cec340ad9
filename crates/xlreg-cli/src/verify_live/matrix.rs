//! Who reaches whom: rows, each told by the member that has looked.

use std::collections::BTreeMap;
use std::fmt::Display;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use xlreg::{Endpoint, Roster};

use crate::output;

/// Members in a row, at most: a cluster has no more.
const CELLS_MAX: usize = 64;

/// Characters of a reason.
const WHY_CHARS_MAX: usize = 300;

/// What a member has found of another.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase", tag = "state")]
pub(super) enum Cell {
    /// It was reached: from the first packet until it had taken us, in milliseconds.
    Reached { millis: f64 },
    /// It was not, for this reason.
    Failed { why: String },
}

impl Cell {
    pub(super) fn failed(endpoint: Option<&Endpoint>, why: &impl Display) -> Self {
        let at = endpoint.map_or_else(String::new, |endpoint| format!("{endpoint}: "));
        Self::Failed { why: printable(&format!("{at}{why}")) }
    }

    fn text(&self) -> String {
        match self {
            Self::Reached { millis } => format!("{millis:.1} ms"),
            Self::Failed { .. } => "no".to_owned(),
        }
    }
}

/// What a member has found of all the others, so far.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub(super) struct Row {
    rank: usize,
    cells: BTreeMap<usize, Cell>,
    /// Whether nothing more is to come.
    pub(super) done: bool,
}

impl Row {
    pub(super) fn new(rank: usize) -> Self {
        Self { rank, cells: BTreeMap::new(), done: false }
    }

    pub(super) fn rank(&self) -> usize {
        self.rank
    }

    pub(super) fn put(&mut self, rank: usize, cell: Cell) {
        self.cells.insert(rank, cell);
    }

    /// The row as told by the member of this rank, within bounds and safe to print.
    pub(super) fn told_by(self, rank: usize) -> Self {
        let cells = self.cells.into_iter().take(CELLS_MAX).map(|(rank, cell)| {
            let cell = match cell {
                Cell::Failed { why } => Cell::Failed { why: printable(&why) },
                reached => reached,
            };
            (rank, cell)
        });
        Self { rank, cells: cells.collect(), done: self.done }
    }
}

/// A stranger's words: bounded, and without control characters.
fn printable(text: &str) -> String {
    text.chars().take(WHY_CHARS_MAX).filter(|c| !c.is_control()).collect()
}

/// All rows that are known.
#[derive(Debug)]
pub(super) struct Matrix {
    ranks: Vec<usize>,
    rows: BTreeMap<usize, Row>,
}

impl Matrix {
    pub(super) fn new(ranks: Vec<usize>) -> Self {
        Self { ranks, rows: BTreeMap::new() }
    }

    /// Keeps a row, unless a fuller one is there.
    pub(super) fn put(&mut self, row: Row) {
        let fuller = |known: &Row| known.cells.len() > row.cells.len();
        if self.ranks.contains(&row.rank) && !self.rows.get(&row.rank).is_some_and(fuller) {
            self.rows.insert(row.rank, row);
        }
    }

    fn cell(&self, from: usize, to: usize) -> Option<&Cell> {
        self.rows.get(&from)?.cells.get(&to)
    }

    /// Whether nobody is known not to reach somebody.
    pub(super) fn all_reached(&self) -> bool {
        let mut cells = self.rows.values().flat_map(|row| row.cells.values());
        cells.all(|cell| matches!(cell, Cell::Reached { .. }))
    }

    /// A table, and below it the reasons.
    pub(super) fn to_text(&self, roster: &Roster, own: usize) -> String {
        let label = |rank: usize| {
            let name = roster.member(rank).map_or("?", |member| member.name.as_str());
            format!("{rank} {name}")
        };
        let header: Vec<_> = ["FROM \\ TO".to_owned()]
            .into_iter()
            .chain(self.ranks.iter().map(|rank| label(*rank)))
            .collect();
        let header: Vec<_> = header.iter().map(String::as_str).collect();
        let rows = self.ranks.iter().map(|from| {
            let cells = self.ranks.iter().map(|to| match self.cell(*from, *to) {
                _ if from == to => "-".to_owned(),
                Some(cell) => cell.text(),
                None => "?".to_owned(),
            });
            [label(*from)].into_iter().chain(cells).collect()
        });
        let (here, size) = (roster.members.len(), roster.size);
        let title = format!(
            "cluster {} ({}): {here} of {size} members, seen from {}",
            roster.title(),
            roster.id,
            label(own)
        );
        let mut text = format!("{title}\n{}", output::table(&header, rows));
        for (from, row) in &self.rows {
            for (to, cell) in &row.cells {
                if let Cell::Failed { why } = cell {
                    text.push_str(&format!(
                        "\n{} does not reach {}: {why}",
                        label(*from),
                        label(*to)
                    ));
                }
            }
        }
        text
    }

    /// `listening`: whether we listened in the place of our member's program.
    pub(super) fn to_json(&self, roster: &Roster, own: usize, listening: bool) -> Value {
        let members = roster.iter().map(|(rank, member)| {
            json!({
                "rank": rank,
                "name": member.name.as_str(),
                "id": member.id.to_string(),
                "endpoint": member.endpoints.first().map(ToString::to_string),
            })
        });
        let rows = self.ranks.iter().map(|from| {
            let to = self.ranks.iter().filter(|to| *to != from);
            let cells = to.map(|to| match self.cell(*from, *to) {
                Some(Cell::Reached { millis }) => {
                    json!({ "to": to, "reached": true, "millis": millis })
                }
                Some(Cell::Failed { why }) => json!({ "to": to, "reached": false, "why": why }),
                None => json!({ "to": to, "reached": null }),
            });
            json!({ "from": from, "cells": cells.collect::<Vec<_>>() })
        });
        json!({
            "cluster": roster.title(),
            "cluster_id": roster.id.to_string(),
            "size": roster.size,
            "complete": roster.is_complete(),
            "seen_from": own,
            "listening": listening,
            "all_reached": roster.is_complete() && self.all_reached(),
            "members": members.collect::<Vec<_>>(),
            "matrix": rows.collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(rank: usize, cells: &[(usize, Cell)]) -> Row {
        let cells = cells.iter().cloned().collect();
        Row { rank, cells, done: true }
    }

    #[test]
    fn what_is_unknown_is_no_failure_and_what_failed_is() {
        let mut matrix = Matrix::new(vec![0, 1, 2]);
        matrix
            .put(row(0, &[(1, Cell::Reached { millis: 1.0 }), (2, Cell::Reached { millis: 2.0 })]));
        assert!(matrix.all_reached());
        assert_eq!(matrix.cell(1, 0), None);
        matrix.put(row(1, &[(0, Cell::failed(None, &"refused"))]));
        assert!(!matrix.all_reached());
    }

    #[test]
    fn a_row_is_its_tellers_whatever_it_says_and_none_of_strangers() {
        let told = row(7, &[(1, Cell::Failed { why: "\x1b[31m".repeat(1000) })]).told_by(0);
        assert_eq!(told.rank, 0);
        let Cell::Failed { why } = &told.cells[&1] else { panic!("it failed") };
        assert!(!why.contains('\x1b') && why.len() <= WHY_CHARS_MAX);
        let mut matrix = Matrix::new(vec![0, 1]);
        matrix.put(row(9, &[]));
        assert!(matrix.rows.is_empty());
        // A row that came first by another link may be the fuller one.
        matrix.put(told.clone());
        matrix.put(row(0, &[]));
        assert_eq!(matrix.rows[&0], told);
    }
}
