//! Sums of usage as text: for people, as JSON, as csv.

use crate::filter::Filter;
use crate::rows::csv_line;
use crate::sum::{Groups, Key, Sums};
use identity::shown::terminal;
use serde_json::{Map, Value};

/// One object: the question, and a row for each group.
pub fn json(filter: &Filter, by: &[Key], sums: &Groups) -> String {
    let rows: Vec<Value> = sums.iter().map(|(key, sums)| object(by, key, sums)).collect();
    let count = rows.len();
    serde_json::json!({ "query": filter, "by": by, "time_zone": "UTC", "count": count, "sums": rows })
        .to_string()
        + "\n"
}

/// One object a line.
pub fn jsonl(by: &[Key], sums: &Groups) -> String {
    sums.iter().map(|(key, sums)| object(by, key, sums).to_string() + "\n").collect()
}

/// Numbers with their units in their names.
fn numbers(sums: &Sums) -> [(&'static str, Value); 9] {
    let efficiency = sums.efficiency().map(|e| (e * 100.0).round() / 100.0);
    [
        ("jobs", sums.jobs.into()),
        ("wall_us", sums.wall_us.into()),
        ("core_us", sums.core_us.into()),
        ("cpu_us", sums.cpu_us.into()),
        ("efficiency_percent", efficiency.into()),
        ("mem_max_bytes", sums.mem_max_bytes.into()),
        ("failed", sums.failed.into()),
        ("lost", sums.lost.into()),
        ("denied", sums.denied.into()),
    ]
}

fn object(by: &[Key], key: &[String], sums: &Sums) -> Value {
    let named = by.iter().zip(key).map(|(key, text)| (key.name(), Value::from(text.as_str())));
    Value::Object(
        named.chain(numbers(sums)).map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>(),
    )
}

/// RFC 4180, with a line of titles.
pub fn csv(by: &[Key], sums: &Groups) -> String {
    let titles = by.iter().map(|key| key.name()).chain(numbers(&Sums::default()).map(|(name, _)| name));
    let mut text = csv_line(titles.map(str::to_owned));
    for (key, sums) in sums {
        let values =
            numbers(sums).map(|(_, value)| if value.is_null() { String::new() } else { value.to_string() });
        text.push_str(&csv_line(key.iter().cloned().chain(values)));
    }
    text
}

/// For people.
pub fn table(by: &[Key], sums: &Groups) -> String {
    let hours = |us: u64| format!("{:.1}", us as f64 / 3.6e9);
    let cells = |key: &[String], sums: &Sums| -> Vec<String> {
        let shown = |text: &String| match text.as_str() {
            "" => "-".to_owned(),
            text => terminal(text).into_owned(),
        };
        let efficiency = sums.efficiency().map_or("-".to_owned(), |e| format!("{e:.0}"));
        let numbers = [
            sums.jobs.to_string(),
            hours(sums.wall_us),
            hours(sums.core_us),
            hours(sums.cpu_us),
            efficiency,
            (sums.mem_max_bytes >> 20).to_string(),
            sums.failed.to_string(),
            sums.lost.to_string(),
            sums.denied.to_string(),
        ];
        key.iter().map(shown).chain(numbers).collect()
    };
    let titles = ["JOBS", "WALL H", "CORE H", "CPU H", "EFF %", "MEM MiB", "FAILED", "LOST", "DENIED"];
    let keys = by.iter().map(|key| key.name().to_uppercase());
    let mut rows = vec![keys.chain(titles.map(str::to_owned)).collect::<Vec<_>>()];
    rows.extend(sums.iter().map(|(key, sums)| cells(key, sums)));
    let mut all = Sums::default();
    sums.values().for_each(|sums| all.add(sums));
    let mut total = vec!["all".to_owned()];
    total.resize(by.len(), String::new());
    rows.push(cells(&total, &all));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cell = |(index, text): (usize, &String)| match index < by.len() {
            true => format!("{text:<width$}", width = widths[index]),
            false => format!("{text:>width$}", width = widths[index]),
        };
        row.iter().enumerate().map(cell).collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect::<String>()
        + "Days, months and years are in UTC; a session counts where it ended.\n"
}
