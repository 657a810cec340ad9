//! What members and owners do to clusters: only by the modern door.

use xlreg_api::{convert, v2};
use xlreg_core::limits::NAME_BYTES_MAX;
use xlreg_core::{Cluster, ClusterKey, Endpoint, Fingerprint, Name, NodeId};

use crate::error::Error;
use crate::following::{Follower, Watch};
use crate::identity::Identity;
use crate::lookup::absurd;
use crate::modern::Client;
use crate::registry::{Registry, malformed};

/// Clusters asked for at once, and pages that are read: more than any registry has.
const PAGE: u32 = 500;
const PAGES_MAX: usize = 1000;

/// A cluster in a list: without its members, of whom only the number is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The cluster; its seats are empty.
    pub cluster: Cluster,
    /// How many members are there.
    pub present: u32,
}

impl Listed {
    /// Whether as many are there as it is for.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.present >= self.cluster.size
    }
}

impl Registry {
    /// Begins to follow a cluster; nobody has to be a member for it.
    ///
    /// # Errors
    /// [`Error::Refused`] if there is no such cluster, [`Error::OldWire`], or one of the network's
    /// kinds.
    pub async fn watch(&self, identity: &Identity, cluster: &ClusterKey) -> Result<Watch, Error> {
        self.need_modern("following of a cluster")?;
        let follower = Follower::look(self.clone(), identity.clone(), cluster.clone()).await?;
        Ok(Watch::new(follower))
    }

    /// The registry's clusters in the order of their names, without their members; only those that
    /// `identity` owns or is a member of, if `mine`.
    ///
    /// # Errors
    /// [`Error::OldWire`], or one of the network's kinds.
    pub async fn list(&self, identity: &Identity, mine: bool) -> Result<Vec<Listed>, Error> {
        self.need_modern("list of clusters")?;
        let line = self.line(identity).await?;
        let mut clusters = Vec::new();
        let mut page_token = String::new();
        for _ in 0..PAGES_MAX {
            let request = v2::ListClustersRequest { page_size: PAGE, page_token, mine };
            let call = async |mut client: Client, request| client.list_clusters(request).await;
            let page = line.ask("ListClusters", call, request).await?;
            if page.clusters.len() > PAGE as usize || page.next_page_token.len() > NAME_BYTES_MAX {
                return Err(absurd("ListClusters", "it is more than was asked for"));
            }
            for told in &page.clusters {
                let read = convert::cluster(told);
                let cluster = read.map_err(|fault| malformed("ListClusters", &fault))?;
                clusters.push(Listed { cluster, present: told.present });
            }
            page_token = page.next_page_token;
            if page_token.is_empty() {
                line.close().await;
                return Ok(clusters);
            }
        }
        Err(absurd("ListClusters", "there is no end of pages"))
    }

    /// The IDs that are registered with a sig key, in the order in which they were; none if the registry
    /// does not know the key, or another has taken its place.
    ///
    /// # Errors
    /// [`Error::OldWire`], or one of the network's kinds.
    pub async fn ids_of(
        &self,
        identity: &Identity,
        sig_key: &Fingerprint,
    ) -> Result<Vec<NodeId>, Error> {
        const NAME: &str = "GetNode";
        let request = v2::GetNodeRequest { sig_key_sha256: sig_key.as_bytes().to_vec() };
        let call = async |mut client: Client, request| client.get_node(request).await;
        let answer = self.once(identity, "way to ask about a node", NAME, call, request).await?;
        let read = |node: &v2::Node| {
            if node.sig_key_sha256 != sig_key.as_bytes() {
                return Err(absurd(NAME, "it is about another node"));
            }
            convert::bytes("nodes.id", &node.id).map_err(|fault| malformed(NAME, &fault))
        };
        answer.nodes.iter().map(read).collect()
    }

    /// Leaves a cluster, as the member of `identity`'s name. The rank stays ours: who joins again
    /// gets it back.
    ///
    /// # Errors
    /// [`Error::Refused`] if we are no member or there is no such cluster, [`Error::OldWire`], or
    /// one of the network's kinds.
    pub async fn leave(&self, identity: &Identity, cluster: &ClusterKey) -> Result<(), Error> {
        let request = v2::LeaveRequest {
            cluster: Some(convert::cluster_ref(cluster)),
            name: identity.name().to_string(),
        };
        let call = async |mut client: Client, request| client.leave(request).await;
        self.once(identity, "way to leave a cluster", "Leave", call, request).await?;
        Ok(())
    }

    /// Tells a cluster that the member of `identity`'s name is reached elsewhere now, and signs that.
    ///
    /// # Errors
    /// As [`Self::leave`].
    pub async fn update_endpoints(
        &self,
        identity: &Identity,
        cluster: &ClusterKey,
        endpoints: &[Endpoint],
    ) -> Result<(), Error> {
        self.need_modern("way to change endpoints")?;
        let line = self.line(identity).await?;
        self.relocate(&line, identity, cluster, endpoints).await?;
        line.close().await;
        Ok(())
    }

    /// Removes a cluster. For its owner and administrators.
    ///
    /// # Errors
    /// [`Error::Refused`] if it is another's or there is none, [`Error::OldWire`], or one of the
    /// network's kinds.
    pub async fn delete(&self, identity: &Identity, cluster: &ClusterKey) -> Result<(), Error> {
        let request = v2::DeleteClusterRequest { cluster: Some(convert::cluster_ref(cluster)) };
        let call = async |mut client: Client, request| client.delete_cluster(request).await;
        self.once(identity, "way to delete a cluster", "DeleteCluster", call, request).await?;
        Ok(())
    }

    /// Takes a member's rank away, and shuts its sig key out of the cluster for good. For the
    /// cluster's owner and administrators.
    ///
    /// # Errors
    /// As [`Self::delete`], and [`Error::Refused`] if there is no such member.
    pub async fn expel(
        &self,
        identity: &Identity,
        cluster: &ClusterKey,
        member: &NodeId,
    ) -> Result<(), Error> {
        let request = v2::ExpelMemberRequest {
            cluster: Some(convert::cluster_ref(cluster)),
            member_id: member.as_bytes().to_vec(),
        };
        let call = async |mut client: Client, request| client.expel_member(request).await;
        self.once(identity, "way to expel a member", "ExpelMember", call, request).await?;
        Ok(())
    }

    /// The ID of the member of this name: what [`Self::expel`] asks for.
    ///
    /// # Errors
    /// As [`Self::show`], and [`Error::Refused`] if nobody there has that name.
    pub async fn member_id(
        &self,
        identity: &Identity,
        cluster: &ClusterKey,
        name: &Name,
    ) -> Result<NodeId, Error> {
        let roster = self.show(identity, cluster).await?;
        let mut all = roster.holders().into_iter().map(|(_, member, _)| member);
        let found = all.find(|member| member.name == *name).map(|member| member.id);
        found.ok_or(Error::Refused {
            request: "GetCluster",
            reason: crate::Reason::Known(xlreg_core::Refusal::NotAMember),
        })
    }
}
