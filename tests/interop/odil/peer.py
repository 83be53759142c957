"""Calls a node with odil, or takes what is sent to it; the system's Python runs this.

peer.py HOST PORT CALLING_TITLE COMMAND [WORD]...; only odil is needed.
"""

from __future__ import annotations

import sys

import odil

Context = odil.AssociationParameters.PresentationContext
SYNTAXES = [odil.registry.ExplicitVRLittleEndian, odil.registry.ImplicitVRLittleEndian]
SUCCESS = 0x0000
STUDY_ROOT = "StudyRootQueryRetrieveInformationModel"


def associated(host, port, title, *contexts, identity=()):
    """Return an association with abstract syntaxes, each with a role."""
    association = odil.Association()
    association.set_peer_host(host)
    association.set_peer_port(int(port))
    parameters = association.update_parameters()
    parameters.set_calling_ae_title(title).set_called_ae_title("DICOMNODE")
    proposed = [
        Context(2 * number + 1, uid, SYNTAXES, role) for number, (uid, role) in enumerate(contexts)
    ]
    parameters.set_presentation_contexts(proposed)
    if identity:
        parameters.set_user_identity_to_username_and_password(*identity)
    association.associate()
    return association


def of_study(uid):
    """Return a query of a study."""
    query = odil.DataSet()
    query.add("QueryRetrieveLevel", ["STUDY"])
    query.add("StudyInstanceUID", [uid])
    return query


def echo(call, *identity):
    association = associated(
        *call, (odil.registry.Verification, Context.Role.SCU), identity=identity
    )
    odil.EchoSCU(association).echo()
    association.release()


def move(call, study, destination):
    model = getattr(odil.registry, STUDY_ROOT + "Move")
    association = associated(*call, (model, Context.Role.SCU))
    scu = odil.MoveSCU(association)
    scu.set_affected_sop_class(model)
    scu.set_move_destination(destination)
    scu.move(of_study(study))
    association.release()


def worklist(call, modality):
    model = odil.registry.ModalityWorklistInformationModelFind
    association = associated(*call, (model, Context.Role.SCU))
    step, query = odil.DataSet(), odil.DataSet()
    step.add("Modality", [modality])
    query.add("PatientName", [""])
    query.add("ScheduledProcedureStepSequence", [step])
    scu = odil.FindSCU(association)
    scu.set_affected_sop_class(model)
    for found in scu.find(query):
        print("item", found.as_string("PatientName")[0].decode())
    association.release()


def serve(call, folder):
    """Take associations until ended, one after another; write what comes to ``folder``."""

    def store(request):
        data_set = request.get_data_set()
        uid = data_set.as_string("SOPInstanceUID")[0].decode()
        with odil.open(f"{folder}/{uid}.dcm", "wb") as stream:
            odil.Writer.write_file(data_set, stream)
        return SUCCESS

    while True:
        association = odil.Association()
        association.receive_association("v4", int(call[1]))
        echoes, stores = odil.EchoSCP(association), odil.StoreSCP(association)
        echoes.set_callback(lambda request: SUCCESS)
        stores.set_callback(store)
        dispatcher = odil.SCPDispatcher(association)
        dispatcher.set_echo_scp(echoes)
        dispatcher.set_store_scp(stores)
        try:
            while True:
                dispatcher.dispatch()
        except (odil.AssociationReleased, odil.AssociationAborted):
            continue


if __name__ == "__main__":
    COMMANDS = {each.__name__: each for each in (echo, move, worklist, serve)}
    COMMANDS[sys.argv[4]](sys.argv[1:4], *sys.argv[5:])
