//! What a benchmark found: a figure per row, with its yardstick of the same run, the goal, and whether it is met.

use serde_json::{Value, json};
use std::time::Duration;

/// What a ratio has to be.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    /// At most this; the second is where we are going.
    AtMost(f64, f64),
    /// At least this.
    AtLeast(f64, f64),
}

/// One figure.
#[derive(Debug)]
pub struct Row {
    /// Its name in the list of figures.
    pub id: &'static str,
    /// What it says.
    pub what: String,
    /// The unit of both sides.
    pub unit: &'static str,
    /// The yardstick and ours, one pair per round.
    pub rounds: Vec<(f64, f64)>,
    /// What the ratio of the medians has to be; none if the row is for orientation.
    pub goal: Option<Goal>,
}

/// All that a run has to say.
#[derive(Debug)]
pub struct Report {
    /// Its name.
    pub name: &'static str,
    /// What was measured, and how.
    pub about: Vec<String>,
    /// The figures.
    pub rows: Vec<Row>,
    /// What else was seen.
    pub notes: Vec<String>,
}

impl Row {
    fn yardstick(&self) -> f64 {
        median(self.rounds.iter().map(|r| r.0).collect())
    }

    fn ours(&self) -> f64 {
        median(self.rounds.iter().map(|r| r.1).collect())
    }

    fn ratio(&self) -> f64 {
        self.ours() / self.yardstick()
    }

    /// The smallest and the largest ratio of a round.
    fn spread(&self) -> (f64, f64) {
        let ratios = self.rounds.iter().map(|r| r.1 / r.0);
        ratios.fold((f64::INFINITY, 0.0), |(low, high), r| {
            (low.min(r), high.max(r))
        })
    }

    fn verdict(&self) -> &'static str {
        let ratio = self.ratio();
        let (aimed, met) = match self.goal {
            None => return "",
            Some(Goal::AtMost(goal, aim)) => (ratio <= aim, ratio <= goal),
            Some(Goal::AtLeast(goal, aim)) => (ratio >= aim, ratio >= goal),
        };
        match (aimed, met) {
            (true, _) => "aim reached",
            (false, true) => "met",
            (false, false) => "MISSED",
        }
    }

    fn goal(&self) -> (String, String) {
        match self.goal {
            None => Default::default(),
            Some(Goal::AtMost(goal, aim)) => (format!("<= {goal}"), format!("<= {aim}")),
            Some(Goal::AtLeast(goal, aim)) => (format!(">= {goal}"), format!(">= {aim}")),
        }
    }

    fn cells(&self) -> [String; 9] {
        let (low, high) = self.spread();
        let (goal, aim) = self.goal();
        [
            self.id.to_owned(),
            self.what.clone(),
            format!("{} {}", number(self.yardstick()), self.unit),
            format!("{} {}", number(self.ours()), self.unit),
            format!("{:.2}", self.ratio()),
            format!("{low:.2} - {high:.2}"),
            goal,
            aim,
            self.verdict().to_owned(),
        ]
    }

    fn json(&self) -> Value {
        let (goal, aim) = match self.goal {
            None => (None, None),
            Some(Goal::AtMost(goal, aim) | Goal::AtLeast(goal, aim)) => (Some(goal), Some(aim)),
        };
        let (low, high) = self.spread();
        json!({
            "id": self.id, "what": self.what, "unit": self.unit, "rounds": self.rounds,
            "yardstick": self.yardstick(), "ours": self.ours(), "ratio": self.ratio(), "ratio_min": low,
            "ratio_max": high, "goal": goal, "aim": aim, "verdict": self.verdict(),
        })
    }
}

impl Report {
    /// Prints it, as one JSON document or as a table.
    pub fn print(&self, as_json: bool) {
        if as_json {
            let rows: Vec<Value> = self.rows.iter().map(Row::json).collect();
            let document = json!({ "name": self.name, "about": self.about, "rows": rows, "notes": self.notes });
            println!("{document:#}");
            return;
        }
        println!("\n{}", self.name);
        for line in &self.about {
            println!("  {line}");
        }
        let heads = [
            "id",
            "figure",
            "yardstick",
            "ours",
            "ratio",
            "rounds",
            "goal",
            "aim",
            "",
        ];
        let mut lines = vec![heads.map(str::to_owned)];
        lines.extend(self.rows.iter().map(Row::cells));
        println!();
        for line in &lines {
            let mut text = String::new();
            for (i, cell) in line.iter().enumerate() {
                let width = lines.iter().map(|l| l[i].chars().count()).max();
                text.push_str(&format!("  {cell:<0$}", width.unwrap_or(0)));
            }
            println!("{}", text.trim_end());
        }
        println!();
        for note in &self.notes {
            println!("  {note}");
        }
    }
}

/// The middle value; of an even number of values, the mean of the two in the middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match (values.get(values.len() / 2), values.len() % 2) {
        (None, _) => f64::NAN,
        (Some(high), 0) => (values[values.len() / 2 - 1] + high) / 2.0,
        (Some(middle), _) => *middle,
    }
}

/// The value that a share of all is at or below, in milliseconds.
pub fn percentile(times: &[Duration], share: f64) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort();
    let rank = (share * sorted.len() as f64).ceil() as usize;
    let at = rank.clamp(1, sorted.len().max(1)) - 1;
    sorted
        .get(at)
        .map_or(f64::NAN, |t| t.as_secs_f64() * 1000.0)
}

/// Three digits, or all of a large one.
pub fn number(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}
