"""The private descriptor pool."""

from importlib.resources import files

from google.protobuf import descriptor_pb2

from smdaemon.proto import pool


def test_descriptor_set_is_cut_as_protobuf_cuts_it():
    """The files that are added to the pool are those that protobuf finds in the descriptor set."""
    content = files("smdaemon.proto").joinpath("descriptors.binpb").read_bytes()
    parsed = descriptor_pb2.FileDescriptorSet.FromString(content).file
    assert list(pool._files_of(content)) == [file.SerializeToString() for file in parsed]
    assert len(parsed) > 10


def test_every_file_of_the_set_is_in_the_pool():
    """Each declared file can be found by its name, with the package that it declares."""
    content = files("smdaemon.proto").joinpath("descriptors.binpb").read_bytes()
    for file in descriptor_pb2.FileDescriptorSet.FromString(content).file:
        assert pool.pool().FindFileByName(file.name).package == file.package
