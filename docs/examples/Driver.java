// A driver in Java: a service for as long as it runs. It needs JeroMQ and Gson.
//
//     java -cp jeromq.jar:gson.jar Driver.java psu_cs PSU
//
// RSREG_ENDPOINT says where the registry is, RSREG_ADVERTISE where others reach this machine.
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.net.DatagramSocket;
import java.net.InetSocketAddress;
import java.util.UUID;
import org.zeromq.ZContext;
import org.zeromq.ZMQ;

public class Driver {
    static final int PATIENCE = 2000; // milliseconds until an answer counts as lost
    static final String SENDER = UUID.randomUUID().toString().replace("-", "");
    static final ZContext context = new ZContext();
    static volatile boolean over = false;
    static ZMQ.Socket registry;
    static String endpoint, requestId;
    static int requests = 0;

    /** Milliseconds of a clock that nobody sets. */
    static long now() {
        return System.nanoTime() / 1_000_000;
    }

    /** A fresh socket has nothing queued that was given up. */
    static void connectAnew() {
        if (registry != null) context.destroySocket(registry);
        registry = context.createSocket(ZMQ.DEALER); // newer: SocketType.DEALER
        registry.setLinger(0);
        registry.connect(endpoint);
    }

    /** Send a request, which is the same as the last one if it is sent again. */
    static void ask(JsonObject request, boolean again) {
        if (!again) requestId = SENDER.substring(16) + "#" + ++requests;
        request.addProperty("request_id", requestId);
        registry.send("", ZMQ.SNDMORE | ZMQ.DONTWAIT);
        registry.send(request.toString().getBytes(ZMQ.CHARSET), ZMQ.DONTWAIT);
    }

    /** What has come, if it is the answer to the last request, else null. */
    static JsonObject answer() {
        registry.recv();
        JsonObject reply = new JsonParser().parse(new String(registry.recv(), ZMQ.CHARSET)).getAsJsonObject();
        boolean ours = reply.has("request_id") && reply.get("request_id").getAsString().equals(requestId);
        return ours ? reply : null;
    }

    static JsonObject about(String action, String serviceId) {
        JsonObject request = new JsonObject();
        request.addProperty("action", action);
        request.addProperty("service_id", serviceId);
        return request;
    }

    public static void main(String[] args) throws Exception {
        int ttl = args.length > 2 ? Integer.parseInt(args[2]) : 30;
        String said = System.getenv().getOrDefault("RSREG_ENDPOINT", "");
        String[] where = (said.isEmpty() ? "localhost" : said.replace("tcp://", "")).split(":");
        InetSocketAddress there =
                new InetSocketAddress(where[0], where.length > 1 ? Integer.parseInt(where[1]) : 4242);
        endpoint = "tcp://" + where[0] + ":" + there.getPort();
        JsonObject info = new JsonObject();
        info.addProperty("name", args[0]);
        info.addProperty("type", args[1]);
        info.addProperty("host", System.getenv("RSREG_ADVERTISE"));
        if (info.get("host").isJsonNull()) {
            // The local address of the route to the registry: a connected UDP socket knows it.
            try (DatagramSocket udp = new DatagramSocket()) {
                udp.connect(there);
                info.addProperty("host", udp.getLocalAddress().getHostAddress());
            }
        }
        ZMQ.Socket commands = context.createSocket(ZMQ.REP);
        commands.setLinger(0);
        info.addProperty("port", commands.bindToRandomPort("tcp://*")); // an int, not 5000.0
        JsonObject registration = about("register", null);
        registration.add("service_info", info);
        registration.addProperty("ttl", ttl);

        // A handler of SIGINT and SIGTERM is a thread that the end of the process waits for.
        Thread main = Thread.currentThread();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            over = true;
            try { main.join(2 * PATIENCE); } catch (InterruptedException stop) { }
        }));
        run(commands, registration, info, ttl);
        context.close();
    }

    static void run(ZMQ.Socket commands, JsonObject registration, JsonObject info, int ttl) {
        boolean registered = false, waits = false;
        long due = now();
        while (!over) {
            if (now() >= due) {
                if (registry == null || waits) connectAnew();
                ask(registered ? about("renew", info.get("id").getAsString()) : registration, waits);
                waits = true;
                due = now() + PATIENCE;
            }
            ZMQ.Poller poller = new ZMQ.Poller(2);
            poller.register(commands, ZMQ.Poller.POLLIN);
            poller.register(registry, ZMQ.Poller.POLLIN);
            poller.poll(Math.max(1, Math.min(100, due - now()))); // looks at `over` now and then
            if (poller.pollin(0)) {
                commands.send("done: " + commands.recvStr()); // here the instrument does its work
            }
            JsonObject reply = poller.pollin(1) ? answer() : null;
            if (reply == null) continue;
            waits = false;
            if (reply.get("success").getAsBoolean()) {
                // Its id, under which it registers again with a registry that forgot it.
                if (!registered) info.add("id", reply.get("service_id"));
                registered = true;
                due = now() + ttl * 1000L / 3;
            } else if (registered && reply.get("code").getAsString().equals("unknown-service")) {
                registered = false;
                due = now();
            } else {
                System.err.println(reply.get("error").getAsString());
                due = now() + PATIENCE;
            }
        }
        if (info.has("id")) {
            ask(about("deregister", info.get("id").getAsString()), false);
            registry.setReceiveTimeOut(PATIENCE);
            registry.recv();
        }
    }
}
