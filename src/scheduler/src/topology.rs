//! Nodes by the value of one of their labels: the domains of a topology.

use std::collections::HashMap;

use crate::cluster::NodeIx;

/// A domain: all nodes with one value of the label.
pub(crate) type Domain = u32;

/// Where no domain is.
const NOWHERE: Domain = Domain::MAX;

/// The domains of one label.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Topology {
    of_node: Vec<Domain>,
    values: HashMap<String, Domain>,
}

impl Topology {
    /// The domain that a node is in, if it has the label.
    pub(crate) fn domain(&self, node: NodeIx) -> Option<usize> {
        let domain = self.of_node.get(node).copied().unwrap_or(NOWHERE);
        (domain != NOWHERE).then_some(domain as usize)
    }

    /// How many domains there have been; every [`Topology::domain`] is less than this.
    pub(crate) fn domains(&self) -> usize {
        self.values.len()
    }

    /// The node has this value of the label, or none.
    pub(crate) fn set(&mut self, node: NodeIx, value: Option<&String>) {
        let domain = value.map_or(NOWHERE, |value| self.domain_named(value));
        if self.of_node.len() <= node {
            self.of_node.resize(node + 1, NOWHERE);
        }
        if let Some(slot) = self.of_node.get_mut(node) {
            *slot = domain;
        }
    }

    fn domain_named(&mut self, value: &str) -> Domain {
        if let Some(domain) = self.values.get(value) {
            return *domain;
        }
        let next = Domain::try_from(self.values.len()).unwrap_or(NOWHERE);
        self.values.insert(value.to_owned(), next);
        next
    }
}
