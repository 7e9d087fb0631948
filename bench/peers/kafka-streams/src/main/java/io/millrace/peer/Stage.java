package io.millrace.peer;

import java.time.Instant;
import java.util.Map;
import org.apache.avro.specific.SpecificRecord;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;

/** What the five processors have in common: where a record for a topic is handed to. */
abstract class Stage implements Processor<String, SpecificRecord, String, SpecificRecord> {
    /** Per topic: its sink and, where processors are fused, whoever takes it from memory. */
    private final Map<String, String[]> routes;

    private ProcessorContext<String, SpecificRecord> context;

    Stage(Map<String, String[]> routes) {
        this.routes = routes;
    }

    @Override
    public void init(ProcessorContext<String, SpecificRecord> context) {
        this.context = context;
    }

    final Instant now() {
        return Instant.ofEpochMilli(context.currentSystemTimeMs());
    }

    final int partition() {
        return context.taskId().partition();
    }

    final void emit(String topic, String key, SpecificRecord value, Instant at) {
        Record<String, SpecificRecord> record = new Record<>(key, value, at.toEpochMilli());
        for (String child : routes.get(topic)) {
            context.forward(record, child);
        }
    }
}
