//! `[services]` as it stands in the file.

use super::Finding;
use crate::ports::PortRange;
use crate::services::ServicePorts;
use std::collections::BTreeMap;
use toml::Spanned;

/// Names of services, and their ports; which names there are is known to [`ServicePorts`].
pub(super) type Services = BTreeMap<Spanned<String>, Spanned<toml::Value>>;

/// A port for each service, and a range for dCache's data.
pub(super) fn check(keys: Services) -> Result<ServicePorts, Finding> {
    let mut ports = ServicePorts::default();
    for (name, value) in keys {
        if name.get_ref() == "dcache-data" {
            let range = value.get_ref().as_str().ok_or("write \"20000-25000\"".to_owned());
            let range = range.and_then(|text| PortRange::parse(text).map_err(|e| e.to_string()));
            ports.change_dcache_data(range.map_err(|why| (value.span(), format!("dcache-data: {why}")))?);
            continue;
        }
        let port = value.get_ref().as_integer().and_then(|n| u16::try_from(n).ok()).filter(|port| *port > 0);
        ports.change(name.get_ref(), port.unwrap_or(1)).map_err(|why| (name.span(), why))?;
        if port.is_none() {
            return Err((value.span(), format!("{}: write a port, 1 to 65535", name.get_ref())));
        }
    }
    Ok(ports)
}
