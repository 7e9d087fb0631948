package io.millrace.peer;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.ByteBuffer;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.function.Function;
import org.apache.avro.Schema;
import org.apache.avro.io.BinaryDecoder;
import org.apache.avro.io.BinaryEncoder;
import org.apache.avro.io.DecoderFactory;
import org.apache.avro.io.EncoderFactory;
import org.apache.avro.specific.SpecificDatumReader;
import org.apache.avro.specific.SpecificDatumWriter;
import org.apache.avro.specific.SpecificRecord;
import org.apache.kafka.common.errors.SerializationException;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.Serializer;

/**
 * Serdes of Avro records in the frame of schema registries: a zero byte, the schema's id, the datum.
 * Encoders, decoders, readers and buffers are kept per thread and used again.
 */
public final class Codecs {
    private static final int FRAME = 5;

    private final Function<String, Integer> idOfSubject;
    private final Function<Integer, Schema> schemaOfId;
    private final Map<Integer, Schema> writers = new ConcurrentHashMap<>();

    Codecs(Function<String, Integer> idOfSubject, Function<Integer, Schema> schemaOfId) {
        this.idOfSubject = idOfSubject;
        this.schemaOfId = schemaOfId;
    }

    /** Over a schema registry, asked once per subject and once per id that is met. */
    static Codecs fromRegistry(String url) {
        HttpClient client = HttpClient.newHttpClient();
        Function<String, Schema> get = path -> {
            try {
                HttpResponse<String> answer = client.send(
                        HttpRequest.newBuilder(URI.create(url + path)).build(),
                        HttpResponse.BodyHandlers.ofString());
                if (answer.statusCode() != 200) {
                    throw new IllegalStateException(path + " at the schema registry: " + answer.body());
                }
                return new Schema.Parser().parse(answer.body());
            } catch (IOException e) {
                throw new UncheckedIOException(e);
            } catch (InterruptedException e) {
                throw new IllegalStateException(e);
            }
        };
        Function<String, Integer> latest = subject -> {
            try {
                HttpResponse<String> answer = client.send(
                        HttpRequest.newBuilder(URI.create(url + "/subjects/" + subject + "/versions/latest")).build(),
                        HttpResponse.BodyHandlers.ofString());
                return idIn(answer.body());
            } catch (IOException e) {
                throw new UncheckedIOException(e);
            } catch (InterruptedException e) {
                throw new IllegalStateException(e);
            }
        };
        return new Codecs(latest, id -> get.apply("/schemas/ids/" + id + "/schema"));
    }

    private static int idIn(String json) {
        java.util.regex.Matcher found = java.util.regex.Pattern.compile("\"id\"\\s*:\\s*(\\d+)").matcher(json);
        if (!found.find()) {
            throw new IllegalStateException("the schema registry answered: " + json);
        }
        return Integer.parseInt(found.group(1));
    }

    /** The serde of the records of a topic. */
    <T extends SpecificRecord> Serde<T> ofTopic(String topic, Class<T> type, Schema schema) {
        int id = idOfSubject.apply(topic + "-value");
        writers.putIfAbsent(id, schema);
        return Serdes.serdeFrom(new Write<>(id, schema), new Read<>(type, schema, true));
    }

    /** The serde of a state that is on no topic of the shop: the bare datum. */
    <T extends SpecificRecord> Serde<T> ofState(Class<T> type, Schema schema) {
        return Serdes.serdeFrom(new Write<>(-1, schema), new Read<>(type, schema, false));
    }

    /** Bytes into a record, without a serde around it. */
    <T extends SpecificRecord> Deserializer<T> reading(Class<T> type, Schema schema) {
        return new Read<>(type, schema, true);
    }

    private static final class Write<T extends SpecificRecord> implements Serializer<T> {
        private final int id;
        private final ThreadLocal<Pen<T>> pens;

        Write(int id, Schema schema) {
            this.id = id;
            this.pens = ThreadLocal.withInitial(() -> new Pen<>(schema));
        }

        @Override
        public byte[] serialize(String topic, T value) {
            if (value == null) {
                return null;
            }
            Pen<T> pen = pens.get();
            pen.out.reset();
            if (id >= 0) {
                pen.out.write(0);
                pen.out.write(id >>> 24);
                pen.out.write(id >>> 16);
                pen.out.write(id >>> 8);
                pen.out.write(id);
            }
            try {
                pen.encoder = EncoderFactory.get().directBinaryEncoder(pen.out, pen.encoder);
                pen.writer.write(value, pen.encoder);
            } catch (IOException e) {
                throw new SerializationException("cannot write a record of " + topic, e);
            }
            return pen.out.toByteArray();
        }
    }

    private static final class Pen<T> {
        final ByteArrayOutputStream out = new ByteArrayOutputStream(512);
        final SpecificDatumWriter<T> writer;
        BinaryEncoder encoder;

        Pen(Schema schema) {
            writer = new SpecificDatumWriter<>(schema);
        }
    }

    private final class Read<T extends SpecificRecord> implements Deserializer<T> {
        private final Class<T> type;
        private final Schema reader;
        private final boolean framed;
        private final ThreadLocal<Glasses<T>> glasses = ThreadLocal.withInitial(Glasses::new);

        Read(Class<T> type, Schema reader, boolean framed) {
            this.type = type;
            this.reader = reader;
            this.framed = framed;
        }

        @Override
        public T deserialize(String topic, byte[] bytes) {
            if (bytes == null) {
                return null;
            }
            int id = -1;
            int from = 0;
            if (framed) {
                if (bytes.length < FRAME || bytes[0] != 0) {
                    throw new SerializationException("a value of " + topic + " without a schema id");
                }
                id = ByteBuffer.wrap(bytes).getInt(1);
                from = FRAME;
            }
            Glasses<T> mine = glasses.get();
            if (mine.reader == null || mine.writerId != id) {
                Schema writer = id < 0 ? reader : writers.computeIfAbsent(id, schemaOfId);
                mine.reader = new SpecificDatumReader<>(writer, reader);
                mine.writerId = id;
            }
            try {
                mine.decoder = DecoderFactory.get().binaryDecoder(bytes, from, bytes.length - from, mine.decoder);
                return type.cast(mine.reader.read(null, mine.decoder));
            } catch (IOException | RuntimeException e) {
                throw new SerializationException("a value of " + topic + " cannot be read", e);
            }
        }
    }

    private static final class Glasses<T> {
        SpecificDatumReader<T> reader;
        int writerId;
        BinaryDecoder decoder;
    }
}
