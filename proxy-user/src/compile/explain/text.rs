//! An explanation for people.

use std::fmt;

use super::{DestinationView, Explanation, Outcome, RuleView};

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "from         {} (scope {})", self.from, self.scope)?;
        if let Some(reason) = &self.untouched {
            writeln!(f, "not captured {reason}: nothing of the below happens")?;
        }
        self.write_destination(f)?;
        if let Some(protocol) = &self.protocol {
            writeln!(f, "protocol     {protocol}")?;
        }
        writeln!(f, "path         {}: {}", self.path, self.path_reason)?;
        writeln!(
            f,
            "proxy gone   {}: {}",
            self.degraded, self.degraded_reason
        )?;
        if let Some(host) = &self.virtual_host {
            writeln!(f, "virtual host {host}")?;
        }
        for passed_over in &self.passed_over {
            let reasons = passed_over.mismatches.join("; ");
            writeln!(
                f,
                "passed over  {}: {reasons} did not match",
                passed_over.rule
            )?;
        }
        if let Some(rule) = &self.rule {
            writeln!(f, "rule         {rule}")?;
        }
        write!(f, "{}", self.outcome)
    }
}

impl Explanation {
    /// What stands where the connection is made to.
    fn write_destination(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.address.as_deref();
        let service = self.service.as_deref();
        match (self.found.as_str(), service) {
            ("exact", Some(service)) => {
                let address = address.unwrap_or("any address");
                writeln!(f, "to           {address} of {service}")
            }
            ("portWide", _) => {
                let address = address.unwrap_or("the name's address");
                writeln!(
                    f,
                    "to           {address}: no service owns it, what is HTTP on this port goes by Host"
                )
            }
            _ => {
                let address = address.unwrap_or("the name's address");
                writeln!(
                    f,
                    "to           {address}: no service has it, or not this port"
                )
            }
        }
    }
}

impl fmt::Display for RuleView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.object.is_empty() {
            return f.write_str("the service's own route");
        }
        write!(f, "{}: {} {}", self.origin, self.object, self.field)?;
        if self.name.is_empty() {
            return Ok(());
        }
        write!(f, " ({})", self.name)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forward {
                destinations,
                policies,
            } => {
                if !policies.is_empty() {
                    writeln!(f, "policies     {}", policies.join("; "))?;
                }
                let total: u64 = destinations.iter().map(|to| u64::from(to.weight)).sum();
                for destination in destinations {
                    write_destination(f, destination, total)?;
                }
                Ok(())
            }
            Self::Redirect { status } => writeln!(f, "answer       redirect {status}"),
            Self::DirectResponse { status } => writeln!(f, "answer       {status}"),
            Self::NotHonoured { field } => {
                writeln!(f, "answer       503: {field} is not honoured yet")
            }
            Self::NotFound => writeln!(f, "answer       404: no rule of the virtual host matches"),
            Self::Passthrough => writeln!(f, "passes       to the dialled address, by no rule"),
            Self::BlackHole => writeln!(f, "refused      REGISTRY_ONLY: nobody listens there"),
        }
    }
}

fn write_destination(
    f: &mut fmt::Formatter<'_>,
    destination: &DestinationView,
    total: u64,
) -> fmt::Result {
    let share = u64::from(destination.weight) * 100 / total.max(1);
    write!(f, "{share:>3} %        {}", destination.cluster)?;
    match destination.state.as_str() {
        "missing" => writeln!(f, ": does not exist, 503 NC"),
        "notHonoured" => writeln!(f, ": needs what is not honoured yet, 503"),
        "noEndpoints" => writeln!(f, ": no healthy endpoint, 503 UH"),
        "unresolved" => writeln!(
            f,
            ": no address known by DNS of {}, 503 UH until there is one",
            destination.names.join(", ")
        ),
        _ if destination.endpoints.is_empty() && destination.names.is_empty() => {
            writeln!(f, ": the dialled address")
        }
        _ => {
            writeln!(f)?;
            for name in &destination.names {
                writeln!(f, "             by DNS: {name}")?;
            }
            for endpoint in &destination.endpoints {
                writeln!(f, "             {} {}", endpoint.address, endpoint.workload)?;
            }
            Ok(())
        }
    }
}
