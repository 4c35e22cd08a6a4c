//! Whether a pod has a way out, per address family: a default route or one by a gateway.
//!
//! A client whose pod has none must fail as it would without Mizzen, so that it falls
//! back to the other family. Read by rtnetlink from inside the namespace, and followed.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::FutureExt;
use futures_util::stream::{BoxStream, StreamExt, TryStreamExt};
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder, new_multicast_connection};
use tokio::task::JoinHandle;

use super::netns::NetNamespace;

/// Families in which the pod can leave its own subnets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WayOut {
    /// IPv4.
    pub v4: bool,
    /// IPv6.
    pub v6: bool,
}

/// A netlink socket inside one pod's namespace. Dropping it closes the socket.
pub struct PodNetlink {
    handle: Handle,
    changes: BoxStream<'static, ()>,
    pump: JoinHandle<()>,
}

impl PodNetlink {
    /// Opens the socket inside `namespace` and subscribes to route changes.
    ///
    /// # Errors
    /// Entering the namespace or opening the socket fails.
    pub fn open(namespace: &NetNamespace) -> io::Result<Self> {
        let (connection, handle, changes) = namespace.within(|| {
            new_multicast_connection(&[MulticastGroup::Ipv4Route, MulticastGroup::Ipv6Route])
        })??;
        let pump = tokio::spawn(connection);
        Ok(Self {
            handle,
            changes: changes.map(|_| ()).boxed(),
            pump,
        })
    }

    /// The addresses of the namespace's interfaces.
    ///
    /// # Errors
    /// What netlink reports.
    pub async fn addresses(&mut self) -> Result<Vec<IpAddr>, rtnetlink::Error> {
        let mut addresses = Vec::new();
        let mut messages = self.handle.address().get().execute();
        while let Some(message) = messages.try_next().await? {
            addresses.extend(message.attributes.iter().filter_map(|attribute| {
                let AddressAttribute::Address(address) = attribute else {
                    return None;
                };
                Some(*address)
            }));
        }
        Ok(addresses)
    }

    /// Reads the routes of both families.
    ///
    /// # Errors
    /// What netlink reports.
    pub async fn way_out(&mut self) -> Result<WayOut, rtnetlink::Error> {
        let v4 = self
            .leads_out(RouteMessageBuilder::<Ipv4Addr>::new().build())
            .await?;
        let v6 = self
            .leads_out(RouteMessageBuilder::<Ipv6Addr>::new().build())
            .await?;
        Ok(WayOut { v4, v6 })
    }

    async fn leads_out(&mut self, family: RouteMessage) -> Result<bool, rtnetlink::Error> {
        let mut routes = self.handle.route().get(family).execute();
        let mut leads_out = false;
        while let Some(route) = routes.try_next().await? {
            leads_out |= is_way_out(&route);
        }
        Ok(leads_out)
    }

    /// Waits until routes changed. Several changes at once count as one.
    pub async fn changed(&mut self) -> Option<()> {
        self.changes.next().await?;
        while let Some(Some(())) = self.changes.next().now_or_never() {}
        Some(())
    }
}

impl Drop for PodNetlink {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

fn is_way_out(route: &RouteMessage) -> bool {
    let has_gateway = route.attributes.iter().any(|attribute| {
        matches!(
            attribute,
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) | RouteAttribute::MultiPath(_)
        )
    });
    route.header.kind == RouteType::Unicast
        && (route.header.destination_prefix_length == 0 || has_gateway)
}
