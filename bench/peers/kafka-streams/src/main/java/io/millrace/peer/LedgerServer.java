package io.millrace.peer;

import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;

/** Shows the provider's ledger to whoever audits, as JSON lines. */
final class LedgerServer {
    private final HttpServer server;

    private LedgerServer(HttpServer server) {
        this.server = server;
    }

    static LedgerServer start(int port, Provider provider) throws IOException {
        HttpServer server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), port), 0);
        server.createContext("/psp/ledger", exchange -> {
            exchange.sendResponseHeaders(200, 0);
            try (OutputStream out = new java.io.BufferedOutputStream(exchange.getResponseBody(), 1 << 16)) {
                for (Provider.Account account : provider.accounts()) {
                    out.write(account.toJson().getBytes(StandardCharsets.UTF_8));
                    out.write('\n');
                }
            }
        });
        server.start();
        return new LedgerServer(server);
    }

    void stop() {
        server.stop(0);
    }
}
