package io.millrace.peer;

import java.io.FileInputStream;
import java.io.InputStream;
import java.nio.file.Path;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;

/**
 * The peer's process: one properties file in, a running Kafka Streams application out. What begins
 * with {@code peer.} is for the peer, everything else goes to Kafka Streams as it stands.
 */
public final class App {
    private App() {}

    public static void main(String[] args) throws Exception {
        if (args.length != 1) {
            System.err.println("usage: App FILE.properties");
            System.exit(2);
        }
        Properties all = new Properties();
        try (InputStream in = new FileInputStream(args[0])) {
            all.load(in);
        }
        Settings settings = Settings.of(all);
        Provider provider = Provider.open(Path.of(settings.ledger()));
        LedgerServer ledger = LedgerServer.start(settings.ledgerPort(), provider);
        Codecs codecs = Codecs.fromRegistry(settings.registry());
        KafkaStreams streams =
                new KafkaStreams(PeerTopology.build(settings, codecs, provider), settings.streams());
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            return StreamThreadExceptionResponse.REPLACE_THREAD;
        });
        CountDownLatch ended = new CountDownLatch(1);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            streams.close();
            ledger.stop();
            provider.close();
            ended.countDown();
        }));
        streams.setStateListener((now, before) -> System.err.println("peer is " + now));
        streams.start();
        System.err.println("peer started, ledger at http://127.0.0.1:" + settings.ledgerPort() + "/psp/ledger");
        ended.await();
    }
}
