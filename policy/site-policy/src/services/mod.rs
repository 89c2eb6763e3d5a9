//! `site-policy services`: what each grid service needs from a firewall.
//!
//! | looking for | see |
//! |---|---|
//! | the needs themselves | [`catalogue`] |
//! | their words | [`need`] |

pub mod catalogue;
mod dcache;
mod globus;
pub mod need;
mod ours;

use crate::Reply;
use crate::cli::ServicesArgs;
use need::{Need, Reach};
use policy::ports::PortRange;
use policy::services::ServicePorts;
use serde::Serialize;

/// A need as it is shown.
#[derive(Serialize)]
struct Row {
    service: &'static str,
    family: &'static str,
    role: &'static str,
    direction: &'static str,
    node: &'static str,
    protocol: &'static str,
    ports: String,
    source: &'static str,
    initiator: &'static str,
    protection: String,
    purpose: &'static str,
    closed: &'static str,
    from: &'static str,
}

/// Shows the catalogue, with the site's own ports where there is a policy.
pub fn run(args: &ServicesArgs) -> Result<Reply, String> {
    let policy = crate::site_or_default(args.policy.as_deref())?;
    let wanted = match catalogue::selected(&args.service) {
        Ok(wanted) => wanted,
        Err(why) => return Ok(Reply::usage(why)),
    };
    let rows: Vec<Row> = wanted.map(|need| row(need, &policy.services, policy.ports.range)).collect();
    if args.json {
        let text = serde_json::to_string(&rows).map_err(|e| e.to_string())?;
        return Ok(Reply::done(text + "\n"));
    }
    let mut text = String::new();
    for row in rows {
        let Row {
            service,
            family,
            role,
            direction,
            node,
            protocol,
            ports,
            source,
            initiator,
            protection,
            ..
        } = &row;
        text.push_str(&format!(
            "{service} ({family}), {role}: {direction} {protocol} to {ports} of {node}, from {source}\n    \
             for:        {}\n    opened by:  {initiator}\n    protection: {protection}\n    closed:     {}\n    source:     {}\n",
            row.purpose, row.closed, row.from
        ));
    }
    Ok(Reply::done(text))
}

fn row(need: &Need, services: &ServicePorts, range: Option<PortRange>) -> Row {
    let ports = match need.reach {
        Reach::Service(name) => services.port(name).to_string(),
        Reach::OurRange => range.map_or("the site's range ([ports] range)".into(), |r| r.to_string()),
        Reach::PeerRange => "the peer's range".into(),
        Reach::DcacheData => services.dcache_data().to_string(),
    };
    Row {
        service: need.service,
        family: need.family.name(),
        role: need.role.name(),
        direction: need.direction.name(),
        node: need.node,
        protocol: need.protocol,
        ports,
        source: need.source.name(),
        initiator: need.initiator,
        protection: need.protection.to_string(),
        purpose: need.purpose,
        closed: need.closed,
        from: need.family.source(),
    }
}
