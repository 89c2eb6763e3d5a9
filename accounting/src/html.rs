//! A month on one HTML page that needs no network: for a phone, a screen or paper.

use crate::filter;
use crate::sum::{Groups, Sums};
use record::time::rfc3339;
use record::{Record, State};
use std::collections::BTreeMap;

/// What the page shows.
pub struct Month<'a> {
    /// Such as `2026-07`.
    pub name: &'a str,
    /// Name of the site; empty when it was not told.
    pub site: &'a str,
    /// Sums by VO.
    pub by_vo: &'a Groups,
    /// Sums by user.
    pub by_user: &'a Groups,
    /// Sums by day.
    pub by_day: &'a Groups,
    /// Refusals by reason.
    pub denied: &'a Groups,
    /// Sessions that ended in the month, for what sums do not say.
    pub records: &'a [Record],
}

/// Rows that a table shows; the rest is one row.
const MOST_ROWS: usize = 50;

const STYLE: &str = "
:root{color-scheme:light dark;--line:#8884;--bar:#3a7ca5}
body{font:16px/1.45 system-ui,sans-serif;max-width:60rem;margin:0 auto;padding:1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .6rem;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left;white-space:normal;overflow-wrap:anywhere;min-width:9rem}
dl{display:grid;grid-template-columns:repeat(auto-fit,minmax(9rem,1fr));gap:.6rem}
dl div{border:1px solid var(--line);border-radius:.4rem;padding:.5rem .7rem}
dt{font-size:.8rem;opacity:.75}dd{margin:0;font-size:1.3rem}
svg{width:100%;height:auto}rect{fill:var(--bar)}text{font-size:9px;fill:currentColor}
footer{margin-top:2rem;font-size:.85rem;opacity:.75}
@media print{body{max-width:none}h2{break-after:avoid}tr{break-inside:avoid}}
";

/// The page.
pub fn page(month: &Month<'_>) -> String {
    let title = match month.site {
        "" => format!("Usage in {}", month.name),
        site => format!("Usage of {site} in {}", month.name),
    };
    let mut all = Sums::default();
    month.by_vo.values().for_each(|sums| all.add(sums));
    let denied: u64 = month.denied.values().map(|sums| sums.denied).sum();
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>{0}</title><style>{STYLE}</style></head><body>\n<h1>{0}</h1>\n",
        escape(&title)
    );
    html.push_str(&tiles(&all, denied, &overhead(month.records)));
    html.push_str(&section("By VO", &usage_table("VO", month.by_vo)));
    html.push_str(&section("By day", &days(month.by_day)));
    html.push_str(&section("By user", &usage_table("User", month.by_user)));
    html.push_str(&section(
        "Refused",
        &counts("Reason", month.denied.iter().map(|(k, s)| (k.join(" "), s.denied))),
    ));
    html.push_str(&section("Ends that nobody saw", &lost(month.records)));
    html.push_str(&section("Ports in use", &ports(month.records)));
    html.push_str(
        "<footer>Times are in UTC. A session counts in the month in which it ended; only payloads are summed, so that no \
         work counts twice. Efficiency is CPU time by wall time and processors.</footer>\n</body></html>\n",
    );
    html
}

fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c if identity::shown::misleads(c) => safe.push(char::REPLACEMENT_CHARACTER),
            c => safe.push(c),
        }
    }
    safe
}

fn section(title: &str, body: &str) -> String {
    format!("<section><h2>{title}</h2><div class=\"wide\">{body}</div></section>\n")
}

fn hours(us: u64) -> String {
    format!("{:.1}", us as f64 / 3.6e9)
}

fn percent(part: f64, whole: f64) -> String {
    if whole > 0.0 { format!("{:.0} %", part * 100.0 / whole) } else { "-".to_owned() }
}

fn tiles(all: &Sums, denied: u64, overhead: &str) -> String {
    let efficiency = percent(all.cpu_us as f64, all.core_us as f64);
    let tile = |name: &str, value: String| format!("<div><dt>{name}</dt><dd>{}</dd></div>", escape(&value));
    let tiles = [
        tile("Sessions", all.jobs.to_string()),
        tile("Wall hours", hours(all.wall_us)),
        tile("Core hours", hours(all.core_us)),
        tile("CPU hours", hours(all.cpu_us)),
        tile("Efficiency", efficiency),
        tile("Idle in pilots", overhead.to_owned()),
        tile("Failed", all.failed.to_string()),
        tile("Lost", all.lost.to_string()),
        tile("Refused", denied.to_string()),
    ];
    format!("<dl>{}</dl>\n", tiles.concat())
}

/// How much of the time between the first start and the last end in a batch job no payload ran.
fn overhead(records: &[Record]) -> String {
    let (mut span, mut busy) = (0.0, 0.0);
    for tree in crate::tree::trees(records, crate::when::Moment(0)) {
        let (of_tree, used) = tree.span_and_busy();
        span += of_tree as f64;
        busy += used as f64;
    }
    percent(span - busy, span)
}

fn usage_table(title: &str, groups: &Groups) -> String {
    let mut rows: Vec<(String, &Sums)> = groups.iter().map(|(key, sums)| (key.join(" "), sums)).collect();
    rows.sort_by(|a, b| b.1.core_us.cmp(&a.1.core_us).then_with(|| a.0.cmp(&b.0)));
    let mut rest = Sums::default();
    let more = rows.len().saturating_sub(MOST_ROWS);
    rows.iter().skip(MOST_ROWS).for_each(|(_, sums)| rest.add(sums));
    let row = |name: &str, sums: &Sums| {
        format!(
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(if name.is_empty() { "(none)" } else { name }),
            sums.jobs,
            hours(sums.wall_us),
            hours(sums.core_us),
            hours(sums.cpu_us),
            percent(sums.cpu_us as f64, sums.core_us as f64),
            sums.failed
        )
    };
    let mut body: String = rows.iter().take(MOST_ROWS).map(|(name, sums)| row(name, sums)).collect();
    if more > 0 {
        body.push_str(&row(&format!("{more} more"), &rest));
    }
    format!(
        "<table><thead><tr><th>{title}</th><th>Sessions</th><th>Wall h</th><th>Core h</th><th>CPU h</th>\
         <th>Efficiency</th><th>Failed</th></tr></thead><tbody>{body}</tbody></table>"
    )
}

fn counts(title: &str, rows: impl Iterator<Item = (String, u64)>) -> String {
    let mut rows: Vec<_> = rows.filter(|(_, count)| *count > 0).collect();
    rows.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    if rows.is_empty() {
        return "<p>None.</p>".to_owned();
    }
    let row = |(name, count): &(String, u64)| format!("<tr><td>{}</td><td>{count}</td></tr>", escape(name));
    let body: String = rows.iter().take(MOST_ROWS).map(row).collect();
    format!("<table><thead><tr><th>{title}</th><th>Number</th></tr></thead><tbody>{body}</tbody></table>")
}

/// Core hours of each day, as bars.
fn days(groups: &Groups) -> String {
    let most = groups.values().map(|sums| sums.core_us).max().unwrap_or(0);
    if most == 0 {
        return "<p>None.</p>".to_owned();
    }
    let mut bars = String::new();
    for (index, (key, sums)) in groups.iter().enumerate() {
        let day = key.concat();
        let height = sums.core_us as f64 * 100.0 / most as f64;
        let x = index * 20;
        bars.push_str(&format!(
            "<g><title>{}: {} core hours</title><rect x=\"{x}\" y=\"{:.1}\" width=\"16\" height=\"{height:.1}\"/>\
             <text x=\"{}\" y=\"118\" text-anchor=\"middle\">{}</text></g>",
            escape(&day),
            hours(sums.core_us),
            105.0 - height,
            x + 8,
            escape(day.get(8..).unwrap_or_default())
        ));
    }
    let width = groups.len() * 20;
    format!("<svg role=\"img\" aria-label=\"Core hours by day\" viewBox=\"0 0 {width} 122\">{bars}</svg>")
}

fn lost(records: &[Record]) -> String {
    let lost: Vec<&Record> = records.iter().filter(|record| record.state == State::Lost).collect();
    if lost.is_empty() {
        return "<p>None.</p>".to_owned();
    }
    let row = |record: &&Record| {
        let cause = record.exit.as_ref().and_then(|exit| exit.lost.as_deref()).unwrap_or("unknown");
        format!(
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(&record.id),
            escape(filter::host(record)),
            rfc3339(record.end_unix_ns.unwrap_or_default()),
            escape(cause)
        )
    };
    let body: String = lost.iter().take(MOST_ROWS).map(row).collect();
    let head = "<tr><th>Record</th><th>Host</th><th>End</th><th>Cause</th></tr>";
    format!("<p>{} in all.</p><table><thead>{head}</thead><tbody>{body}</tbody></table>", lost.len())
}

fn ports(records: &[Record]) -> String {
    let mut used: BTreeMap<String, u64> = BTreeMap::new();
    for record in records {
        let Some(ports) = record.opened.as_ref().and_then(|opened| opened.ports.as_ref()) else { continue };
        let by = if ports.enforced_by.is_empty() { "nothing" } else { &ports.enforced_by };
        *used.entry(format!("{} (held by {by})", ports.range)).or_default() += 1;
    }
    counts("Ports", used.into_iter())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(rows: &[(&str, u64, u64)]) -> Groups {
        let sums =
            |jobs, core_us| Sums { jobs, core_us, wall_us: core_us, cpu_us: core_us / 2, ..Sums::default() };
        rows.iter()
            .map(|(key, jobs, hours)| (vec![(*key).to_owned()], sums(*jobs, hours * 3_600_000_000)))
            .collect()
    }

    fn page_of(by_user: &Groups) -> String {
        let by_vo = groups(&[("cms", 3, 10), ("atlas", 1, 30)]);
        let by_day = groups(&[("2026-07-01", 2, 20), ("2026-07-02", 2, 20)]);
        let denied = [(vec!["the DN is banned".to_owned()], Sums { denied: 7, ..Sums::default() })].into();
        let (name, site, records) = ("2026-07", "EXAMPLE-T2", &[][..]);
        page(&Month { name, site, by_vo: &by_vo, by_user, by_day: &by_day, denied: &denied, records })
    }

    #[test]
    fn the_page_needs_nothing_but_itself() {
        let html = page_of(&groups(&[("/CN=Ada", 4, 40)]));
        for outside in ["http:", "https:", "src=", "<script", "@import", "url("] {
            assert!(!html.contains(outside), "{outside}");
        }
        for part in
            ["viewport", "@media print", "EXAMPLE-T2", "40.0", "50 %", "the DN is banned", "<svg", "UTC"]
        {
            assert!(html.contains(part), "{part}");
        }
        let at = |text: &str| html.find(text).unwrap();
        assert!(at("<td>atlas<") < at("<td>cms<"), "who used most stands first");
    }

    #[test]
    fn names_of_others_cannot_become_markup() {
        let html = page_of(&groups(&[("/CN=<script>alert(1)</script>\"'&\u{202e}", 1, 1)]));
        assert!(!html.contains("<script>") && !html.contains('\u{202e}'));
        assert!(html.contains("&lt;script&gt;"));
    }

    #[test]
    fn a_long_list_ends_with_the_sum_of_the_rest() {
        let users: Vec<(String, u64, u64)> =
            (0..60).map(|n| (format!("/CN=user {n:02}"), 1, 60 - n)).collect();
        let rows: Vec<(&str, u64, u64)> = users.iter().map(|(a, b, c)| (a.as_str(), *b, *c)).collect();
        let html = page_of(&groups(&rows));
        assert!(html.contains("10 more") && !html.contains("user 55"));
        assert_eq!(html.matches("<tr>").count(), html.matches("</tr>").count());
    }
}
