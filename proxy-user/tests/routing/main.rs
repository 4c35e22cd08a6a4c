//! Routing tables: YAML in, a question asked, the answer of `explain` compared. Each row
//! names the checklist id that it stands for.

mod classic;
mod degraded;
mod destination_rules;
mod gateways;
mod hosts;
mod http_rules;
mod l4;
mod mesh;
mod scopes;
mod sidecars;
