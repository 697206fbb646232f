"""A device as its maker would write it with paho: one connection by TLS, in MQTT 5, with a session that the broker keeps.

It is told what to do by lines of JSON on standard input, and tells what happens by lines of JSON on standard output. The first
line is how it logs in. It runs with paho 1.6 and with paho 2.
"""

import json
import os
import sys
import threading

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

SESSION_EXPIRY_SECONDS = 3600
PATIENCE_SECONDS = 150

telling = threading.Lock()


def tell(event, **what):
    with telling:
        print(json.dumps({"event": event, **what}), flush=True)


def make_client(device_id):
    # paho 2 asks which form the callbacks have; paho 1 knows one form only.
    forms = getattr(mqtt, "CallbackAPIVersion", None)
    chosen = (forms.VERSION2,) if forms else ()
    return mqtt.Client(*chosen, client_id=device_id, protocol=mqtt.MQTTv5)


def session_present(flags):
    # A dict in paho 1, an object in paho 2.
    present = flags["session present"] if isinstance(flags, dict) else flags.session_present
    return bool(present)


def on_connect(client, login, flags, reason, properties):
    if reason != 0:
        tell("refused", reason=str(reason))
        os._exit(1)
    tell("connected", session_present=session_present(flags))
    # Again at each connect, as the broker may have lost the session.
    client.subscribe([(filter, SubscribeOptions(qos=2)) for filter in login["filters"]])


def on_subscribe(client, login, mid, reasons, properties):
    tell("subscribed", reasons=[str(reason) for reason in reasons])


def on_message(client, login, message):
    came_with = lambda name: getattr(message.properties, name, None)
    correlation = came_with("CorrelationData")
    tell(
        "message",
        topic=message.topic,
        payload=message.payload.decode(),
        qos=message.qos,
        retain=bool(message.retain),
        response_topic=came_with("ResponseTopic"),
        correlation=correlation and correlation.decode(),
        expiry_seconds=came_with("MessageExpiryInterval"),
        content_type=came_with("ContentType"),
    )


def publish(client, order):
    properties = Properties(PacketTypes.PUBLISH)
    properties.ContentType = "application/json"
    if order.get("response_topic"):
        properties.ResponseTopic = order["response_topic"]
    if order.get("correlation"):
        properties.CorrelationData = order["correlation"].encode()
    published = client.publish(order["topic"], order["payload"], order["qos"], order["retain"], properties)
    published.wait_for_publish(PATIENCE_SECONDS)
    tell("published" if published.is_published() else "unpublished")


def main():
    login = json.loads(sys.stdin.readline())
    device_id = login["username"]
    client = make_client(device_id)
    client.user_data_set(login)
    client.on_connect, client.on_subscribe, client.on_message = on_connect, on_subscribe, on_message
    client.username_pw_set(device_id, login["password"])
    client.tls_set(ca_certs=login["ca_cert"])
    # It says of itself that it went, in the words of status/offline, and without a time: these words are older than what it does.
    client.will_set(f"iotflow/devices/{device_id}/status/offline", '{"status": "offline", "reason": "connection lost"}', 1, True)
    session = Properties(PacketTypes.CONNECT)
    session.SessionExpiryInterval = SESSION_EXPIRY_SECONDS
    client.connect(login["host"], login["port"], keepalive=30, clean_start=False, properties=session)
    client.loop_start()
    for line in sys.stdin:
        order = json.loads(line)
        if order["do"] == "publish":
            publish(client, order)
        elif order["do"] == "leave":
            client.disconnect()
            client.loop_stop()
            return
        elif order["do"] == "vanish":
            break
    # The power is cut: no DISCONNECT, so the broker speaks its will.
    os._exit(0)


main()
