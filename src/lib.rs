#![doc = include_str!("ARCHITECTURE.md")]

pub mod api;
pub mod auth;
pub mod cli;
pub mod commands;
pub mod config;
pub mod http;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod units;
