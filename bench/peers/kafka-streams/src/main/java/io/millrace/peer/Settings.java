package io.millrace.peer;

import java.util.Properties;

/**
 * What the peer is told. {@code fused} joins the processors of one key inside one sub-topology:
 * they hand records to each other in memory, and all topics are written all the same.
 */
public record Settings(
        String registry,
        int ledgerPort,
        String ledger,
        boolean fused,
        boolean caching,
        int stockPartitions,
        boolean soldOutAdvice,
        Properties streams) {

    static Settings of(Properties all) {
        Properties streams = new Properties();
        for (String name : all.stringPropertyNames()) {
            if (!name.startsWith("peer.")) {
                streams.setProperty(name, all.getProperty(name));
            }
        }
        return new Settings(
                required(all, "peer.registry"),
                Integer.parseInt(required(all, "peer.ledger.port")),
                required(all, "peer.ledger"),
                Boolean.parseBoolean(all.getProperty("peer.fused", "false")),
                Boolean.parseBoolean(all.getProperty("peer.caching", "true")),
                Integer.parseInt(all.getProperty("peer.stock.partitions", "4")),
                Boolean.parseBoolean(all.getProperty("peer.sold.out.advice", "true")),
                streams);
    }

    private static String required(Properties all, String name) {
        String value = all.getProperty(name);
        if (value == null) {
            throw new IllegalArgumentException("the properties file lacks " + name);
        }
        return value;
    }
}
