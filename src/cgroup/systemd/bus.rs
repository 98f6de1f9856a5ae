//! The conversation with systemd. Each is one connection, opened and dropped inside one `block_on`: the library starts a
//! thread for what outlives it, and clone3(2) must not be called from a process with threads. So this comes after clone3.

use std::time::Duration;

use futures_core::Stream;
use zbus::connection::Builder;
use zbus::message::{Message, Type};
use zbus::{Connection, MessageStream, ObjectPath, OwnedObjectPath, Variant};

use super::properties::{Property, Value};
use super::{Manager, Unit};
use crate::error::{Error, Origin, Result};

/// How long systemd may take for a whole conversation: as long as runc gives it for a job.
const PATIENCE: Duration = Duration::from_secs(30);

const NAME: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";
const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";

/// Starts a transient unit and returns when systemd has done it: its processes are in its cgroup then.
///
/// # Errors
/// The bus is not there or does not answer; systemd refuses a property or the unit.
pub fn start(unit: &Unit, properties: &[Property]) -> Result<()> {
    talk(unit, "start", async |bus| {
        let aux: Vec<(&str, Vec<(&str, Variant<'_>)>)> = Vec::new();
        let body = (unit.name.as_str(), "replace", variants(properties), aux);
        match bus.job("StartTransientUnit", &body).await {
            // One that has failed is left over from before. One that lives is somebody else's.
            Err(e) if is(&e, UNIT_EXISTS) => {
                let _ = bus.call("ResetFailedUnit", &unit.name.as_str()).await;
                bus.job("StartTransientUnit", &body).await
            }
            other => other,
        }
    })
}

/// Stops a unit and forgets it, and returns when that is done. One that is gone is none to stop.
///
/// # Errors
/// The bus is not there or does not answer; systemd cannot stop it.
pub fn stop(unit: &Unit) -> Result<()> {
    talk(unit, "stop", async |bus| bus.stop(&unit.name).await)
}

/// Changes properties of a unit that is there, until the next boot.
///
/// # Errors
/// The bus is not there or does not answer; systemd refuses a property.
pub fn set(unit: &Unit, properties: &[Property]) -> Result<()> {
    talk(unit, "change the properties of", async |bus| {
        bus.call("SetUnitProperties", &(unit.name.as_str(), true, variants(properties))).await.map(drop)
    })
}

/// The number of systemd's version: 257. 0 if it cannot be read.
pub fn version(unit: &Unit) -> u32 {
    let text = talk(unit, "ask for the version of the manager of", async |bus| {
        let get = ("org.freedesktop.systemd1.Manager", "Version");
        let reply = bus.connection.call_method(Some(NAME), PATH, Some("org.freedesktop.DBus.Properties"), "Get", &get);
        let reply = reply.await?;
        let body = reply.body();
        let value: Variant<'_> = body.deserialize()?;
        Ok(if let Variant::Str(text) = value { text.to_string() } else { String::new() })
    });
    let text = text.unwrap_or_default();
    let digits = text.trim_start_matches('v').split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    digits.parse().unwrap_or(0)
}

/// A connection, and what comes in on it.
struct Bus {
    connection: Connection,
    messages: MessageStream,
}

impl Bus {
    /// To the system's bus, or a user's. Not directly to systemd (/run/systemd/private) where there is none: its messages
    /// come from "org.freedesktop.systemd1" there, which the library (zbus 6.2) does not take for a sender.
    async fn connect(manager: Manager) -> std::result::Result<Bus, (String, zbus::Error)> {
        let asked = |name| std::env::var(name).ok().filter(|address| !address.is_empty());
        let address = match manager {
            Manager::System => {
                asked("DBUS_SYSTEM_BUS_ADDRESS").unwrap_or_else(|| "unix:path=/run/dbus/system_bus_socket".into())
            }
            Manager::User(uid) => asked("DBUS_SESSION_BUS_ADDRESS").unwrap_or_else(|| {
                let dir = asked("XDG_RUNTIME_DIR").unwrap_or_else(|| format!("/run/user/{uid}"));
                format!("unix:path={dir}/bus")
            }),
        };
        let connect = async {
            let builder = Builder::address(address.as_str()).method_timeout(PATIENCE);
            // In a user namespace we have another number than the bus sees.
            let builder = match manager {
                Manager::User(uid) => builder.user_id(uid),
                Manager::System => builder,
            };
            let connection = builder.build().await?;
            let messages = MessageStream::from(&connection);
            Ok(Bus { connection, messages })
        };
        connect.await.map_err(|e| (address.clone(), e))
    }

    async fn call<B>(&self, method: &'static str, body: &B) -> zbus::Result<Message>
    where
        B: serde::Serialize + zbus::DynamicType,
    {
        self.connection.call_method(Some(NAME), PATH, Some(MANAGER), method, body).await
    }

    /// Calls a method that makes a job, and waits for the signal of the job's end (JobRemoved).
    async fn job<B>(&mut self, method: &'static str, body: &B) -> zbus::Result<()>
    where
        B: serde::Serialize + zbus::DynamicType,
    {
        let rule = format!("type='signal',interface='{MANAGER}',member='JobRemoved',path='{PATH}'");
        let bus = "org.freedesktop.DBus";
        self.connection.call_method(Some(bus), "/org/freedesktop/DBus", Some(bus), "AddMatch", &rule).await?;
        let reply = self.call(method, body).await?;
        let job: OwnedObjectPath = reply.body().deserialize()?;
        loop {
            let message = std::future::poll_fn(|cx| std::pin::Pin::new(&mut self.messages).poll_next(cx)).await;
            let message = message.ok_or_else(|| zbus::Error::Failure("the connection was closed".into()))??;
            let header = message.header();
            let removed = header.message_type() == Type::Signal && header.member().is_some_and(|m| m == "JobRemoved");
            if !removed {
                continue;
            }
            let body = message.body();
            let (_, path, _, result): (u32, ObjectPath<'_>, &str, &str) = body.deserialize()?;
            if path.as_str() != job.as_str() {
                continue;
            }
            return match result {
                "done" => Ok(()),
                other => Err(zbus::Error::Failure(format!("the job ended as {other:?}"))),
            };
        }
    }

    /// Stops a unit, and forgets it if it has failed.
    async fn stop(&mut self, name: &str) -> zbus::Result<()> {
        match self.job("StopUnit", &(name, "replace")).await {
            Err(e) if !is(&e, NO_SUCH_UNIT) => return Err(e),
            _ => {}
        }
        match self.call("ResetFailedUnit", &name).await {
            Err(e) if !is(&e, NO_SUCH_UNIT) => Err(e),
            _ => Ok(()),
        }
    }
}

/// Whether it is systemd's answer of this name.
fn is(error: &zbus::Error, name: &str) -> bool {
    matches!(error, zbus::Error::MethodError(n, _, _) if n.as_str() == name)
}

fn talk<T>(unit: &Unit, what: &str, f: impl AsyncFnOnce(&mut Bus) -> zbus::Result<T>) -> Result<T> {
    let doing = format!("{what} the unit {} by systemd", unit.name);
    let origin = || Origin::field("--systemd-cgroup");
    let conversation = async {
        let mut bus = Bus::connect(unit.manager).await.map_err(|(address, e)| {
            let error = Error::new(format!("{doing}: connect to {address}: {}", words(&e))).at(origin());
            error.hint("systemd and its D-Bus must run here; without --systemd-cgroup tare makes cgroups itself")
        })?;
        let done = f(&mut bus).await.map_err(|e| Error::new(format!("{doing}: {}", words(&e))).at(origin()));
        let _ = bus.connection.close().await;
        done
    };
    zbus::block_on(async {
        let runtime = zruntime::SharedRuntime::current();
        let runtime = runtime.map_err(|e| Error::new(format!("{doing}: {e}")).at(origin()))?;
        match runtime.timeout(PATIENCE, conversation).await {
            Ok(done) => done,
            Err(_) => Err(Error::new(format!("{doing}: no answer for {} s", PATIENCE.as_secs()))
                .at(origin())
                .hint("systemctl list-jobs shows what systemd is at")),
        }
    })
}

/// The error in one line, without what the library adds.
fn words(error: &zbus::Error) -> String {
    match error {
        zbus::Error::MethodError(name, Some(text), _) => format!("{text} ({name})"),
        other => other.to_string().replace('\n', " "),
    }
}

fn variants(properties: &[Property]) -> Vec<(&str, Variant<'_>)> {
    properties.iter().map(|(name, value)| (name.as_str(), variant(value))).collect()
}

fn variant(value: &Value) -> Variant<'_> {
    match value {
        Value::Bool(v) => Variant::from(*v),
        Value::I32(v) => Variant::from(*v),
        Value::U32(v) => Variant::from(*v),
        Value::I64(v) => Variant::from(*v),
        Value::U64(v) => Variant::from(*v),
        Value::Str(v) => Variant::from(v.as_str()),
        Value::Strs(v) => Variant::from(v.clone()),
        Value::U32s(v) => Variant::from(v.clone()),
        Value::Bytes(v) => Variant::from(v.clone()),
        Value::Amounts(v) => Variant::from(v.clone()),
        Value::Pairs(v) => Variant::from(v.clone()),
    }
}
