//! What `make bench` found: one table for people, the same as JSON, and the machine it was found on.

use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// Something that was measured.
#[derive(Debug)]
pub struct Measure {
    /// What, as in the table of `docs/performance.md`.
    pub name: &'static str,
    /// How much.
    pub value: f64,
    /// Of what: `ms`, `1/s`.
    pub unit: &'static str,
    /// What it stands beside, measured in the same run, and how much that was.
    pub beside: Option<(String, f64)>,
    /// What is aimed at.
    pub goal: Option<Goal>,
}

/// What is good.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    /// Not more than this: times.
    AtMost(f64),
    /// Not less than this: rates.
    AtLeast(f64),
    /// The value itself is not more than this: latencies and sizes, which stand beside nothing.
    Value(f64),
    /// The value itself is not less than this: rates that stand beside nothing.
    NotBelow(f64),
}

impl Measure {
    fn ratio(&self) -> Option<f64> {
        self.beside.as_ref().map(|(_, other)| self.value / other)
    }

    fn met(&self) -> Option<bool> {
        Some(match self.goal? {
            Goal::AtMost(goal) => self.ratio()? <= goal,
            Goal::AtLeast(goal) => self.ratio()? >= goal,
            Goal::Value(goal) => self.value <= goal,
            Goal::NotBelow(goal) => self.value >= goal,
        })
    }

    fn as_json(&self) -> Value {
        let goal = self.goal.map(|goal| match goal {
            Goal::AtMost(ratio) => json!({ "at_most": ratio }),
            Goal::AtLeast(ratio) => json!({ "at_least": ratio }),
            Goal::Value(most) => json!({ "most": most }),
            Goal::NotBelow(least) => json!({ "least": least }),
        });
        json!({
            "name": self.name, "value": self.value, "unit": self.unit, "ratio": self.ratio(), "goal": goal, "met": self.met(),
            "beside": self.beside.as_ref().map(|(name, value)| json!({ "name": name, "value": value })),
        })
    }
}

/// What this host is: the figures mean nothing without it.
pub fn machine() -> Value {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    json!({
        "processor": field(&read("/proc/cpuinfo"), "model name"),
        "processors": std::thread::available_parallelism().map_or(0, usize::from),
        "memory": field(&read("/proc/meminfo"), "MemTotal"),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        // Work of others at the beginning: ratios stand it, figures do not.
        "load": read("/proc/loadavg").split(' ').next().unwrap_or_default(),
    })
}

/// Prints the table and writes the JSON.
///
/// # Errors
/// When the file cannot be written.
pub fn publish(machine: &Value, measures: &[Measure], file: &Path) -> std::io::Result<()> {
    let text = |name: &str| machine[name].as_str().unwrap_or_default().to_owned();
    println!(
        "{} x {}, {}, Linux {}, load {}\n",
        machine["processors"],
        text("processor"),
        text("memory"),
        text("kernel"),
        text("load")
    );
    println!("{:<44} {:>10} {:<5} {:>7} {:>9}  beside", "measure", "value", "unit", "ratio", "goal");
    for measure in measures {
        let ratio = measure.ratio().map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        let goal = match measure.goal {
            None => "-".to_owned(),
            Some(Goal::AtMost(goal) | Goal::Value(goal)) => format!("<= {goal}"),
            Some(Goal::AtLeast(goal) | Goal::NotBelow(goal)) => format!(">= {goal}"),
        };
        let missed = if measure.met() == Some(false) { " (missed)" } else { "" };
        let beside =
            measure.beside.as_ref().map_or_else(String::new, |(name, value)| format!("{name}: {value:.2}"));
        println!(
            "{:<44} {:>10.2} {:<5} {ratio:>7} {goal:>9}  {beside}{missed}",
            measure.name, measure.value, measure.unit
        );
    }
    let measures: Vec<Value> = measures.iter().map(Measure::as_json).collect();
    let all = json!({ "machine": machine, "measures": measures });
    fs::write(file, format!("{all:#}\n"))?;
    println!("\nkept in {}", file.display());
    Ok(())
}
