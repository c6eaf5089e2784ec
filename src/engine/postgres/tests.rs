//! Tests against a server, where one is named.
